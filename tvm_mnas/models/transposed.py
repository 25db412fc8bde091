"""Transposed convolutions as convolutions: TVM has no kernel of theirs in our layout, and these are tuned like others.

A transposed convolution of stride s computes s x s interleaved images; each is a convolution with every s-th weight.
"""

from __future__ import annotations

from torch import Tensor, nn


def shuffle_pixels(features: Tensor, block: int) -> Tensor:
    """Return torch's pixel_shuffle, for which TVM's import has no kernel. (N,C*b*b,H,W) -> (N,C,H*b,W*b)."""
    batch, channels, height, width = features.shape
    parts = features.reshape(batch, channels // block**2, block, block, height, width)
    return parts.permute(0, 1, 4, 2, 5, 3).reshape(
        batch, channels // block**2, height * block, width * block
    )


class PixelShuffle(nn.Module):
    """torch's, by `shuffle_pixels`."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, features: Tensor) -> Tensor:
        """Return the enlarged features."""
        return shuffle_pixels(features, self.block)


class SubpixelConvolution(nn.Module):
    """What a transposed convolution computes: all interleaved images at once, then shuffled. (N,C,H,W) -> (N,O,Y,X)."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        stride = layer.stride[0]
        height, width = layer.kernel_size
        rows, columns = -(-height // stride), -(-width // stride)
        outputs = layer.out_channels
        weight = layer.weight.new_zeros(
            layer.in_channels, outputs // layer.groups, rows * stride, columns * stride
        )
        weight[:, :, :height, :width] = layer.weight.detach()
        # Output o of phase (a, b) reads the weights a + s * row, b + s * column, the last first.
        parts = weight.reshape(layer.in_channels, -1, rows, stride, columns, stride)
        parts = parts.permute(1, 3, 5, 0, 2, 4).flip(-2, -1)
        inner = layer.in_channels // layer.groups
        grouped = parts.reshape(-1, stride * stride, layer.groups, inner, rows, columns)
        kernel = grouped.permute(2, 0, 1, 3, 4, 5).reshape(-1, inner, rows, columns)
        self.convolution = nn.Conv2d(
            layer.in_channels,
            outputs * stride**2,
            (rows, columns),
            padding=(rows - 1, columns - 1),
            groups=layer.groups,
            bias=layer.bias is not None,
        )
        self.convolution.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
        if layer.bias is not None:
            bias = layer.bias.detach().repeat_interleave(stride**2)
            self.convolution.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = stride
        self.cut = _pads(layer)
        # How much longer the whole is than what a transposed convolution without padding computes.
        self.longer = tuple(
            stride * (count - 1) - (size - stride) - extra
            for count, size, extra in zip(
                (rows, columns), (height, width), layer.output_padding, strict=True
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the enlarged features."""
        whole = shuffle_pixels(self.convolution(features), self.stride)
        (top, left), (below, beside) = self.cut, self.longer
        bottom, right = -(top + below) or None, -(left + beside) or None
        return whole[:, :, top:bottom, left:right]


def replace_transposed(network: nn.Module) -> nn.Module:
    """Return `network` in eval mode with transposed convolutions and pixel shuffles replaced; it is changed.

    Transposed convolutions are left alone where their strides differ, their weights are spread, or they pad more behind
    than they cut.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.ConvTranspose2d) and _replaceable(layer):
            network.set_submodule(name, SubpixelConvolution(layer).eval())
        elif isinstance(layer, nn.PixelShuffle):
            network.set_submodule(name, PixelShuffle(layer.upscale_factor))
    return network


def _replaceable(layer: nn.ConvTranspose2d) -> bool:
    stride = layer.stride[0]
    fits = all(
        stride * (-(-size // stride) - 1) - (size - stride) + pad >= extra
        for size, pad, extra in zip(
            layer.kernel_size, _pads(layer), layer.output_padding, strict=True
        )
    )
    return (
        layer.stride[0] == layer.stride[1]
        and tuple(layer.dilation) == (1, 1)
        and layer.padding_mode == "zeros"
        and fits
    )


def _pads(layer: nn.ConvTranspose2d) -> tuple[int, int]:
    return int(layer.padding[0]), int(layer.padding[1])
