"""The torch network of an architecture.

One `nn.Module` per operation and no control flow that depends on data, so that the network exports
through `torch.export` and its batch norms fold by `torch.fx`. Tensors are float32 (N,C,H,W); memory
formats are the caller's affair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tvm_mnas.space.architecture import Architecture, ConvOp, Layer, SkipOp


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU unless `linear`: (N,C,H,W) -> (N,K,H/s,W/s)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        linear: bool = False,
        momentum: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=in_channels if depthwise else 1,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)
        if not linear:
            self.relu = nn.ReLU(inplace=True)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means: (N,C,H,W) -> (N,C,H,W).

    The two dense layers are 1x1 convolutions on (N,C,1,1), which keeps the layout that a compiler
    chose.
    """

    def __init__(self, channels: int, reduced_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, reduced_channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(reduced_channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`, gated."""
        gate: Tensor = self.gate(self.expand(self.relu(self.reduce(self.pool(features)))))
        return features * gate


class LayerModule(nn.Module):
    """One layer of a block: its operation, with squeeze-and-excitation inside and a skip around it.

    mbconv: 1x1 expansion, depthwise, [SE], linear 1x1. sepconv: depthwise, [SE], linear 1x1. conv:
    one convolution with batch norm and ReLU, [SE]. The skip is added last (paper, section 4.1 and
    figure 7).
    """

    def __init__(self, layer: Layer, *, momentum: float, eps: float) -> None:
        super().__init__()
        body = nn.Sequential()
        width, kernel, stride = layer.expanded_channels, layer.kernel_size, layer.stride
        if layer.conv_op is ConvOp.CONV:
            conv = ConvNorm(
                layer.in_channels, width, kernel, stride=stride, momentum=momentum, eps=eps
            )
            body.add_module("conv", conv)
        else:
            if layer.conv_op is ConvOp.MBCONV:
                expand = ConvNorm(layer.in_channels, width, 1, momentum=momentum, eps=eps)
                body.add_module("expand", expand)
            depthwise = ConvNorm(
                width, width, kernel, stride=stride, depthwise=True, momentum=momentum, eps=eps
            )
            body.add_module("depthwise", depthwise)
        if layer.se_channels:
            body.add_module("squeeze", SqueezeExcite(width, layer.se_channels))
        if layer.conv_op is not ConvOp.CONV:
            project = ConvNorm(
                width, layer.out_channels, 1, linear=True, momentum=momentum, eps=eps
            )
            body.add_module("project", project)
        self.body = body
        self.skip = _skip(layer.skip_op, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,out_channels,H/stride,W/stride) for `features` (N,in_channels,H,W)."""
        output: Tensor = self.body(features)
        if self.skip is None:
            return output
        skipped: Tensor = self.skip(features)
        return output + skipped


class Network(nn.Module):
    """The network of `architecture`: images (N,C,S,S) -> logits (N,classes)."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        dropout: float,
        batch_norm_momentum: float,
        batch_norm_eps: float,
    ) -> None:
        super().__init__()
        momentum, eps = batch_norm_momentum, batch_norm_eps
        self.architecture = architecture
        self.stem = ConvNorm(
            architecture.input_channels,
            architecture.stem_channels,
            3,
            stride=architecture.stem_stride,
            momentum=momentum,
            eps=eps,
        )
        self.layers = nn.Sequential(
            *(LayerModule(layer, momentum=momentum, eps=eps) for layer in architecture.layers)
        )
        self.head = ConvNorm(
            architecture.layers[-1].out_channels,
            architecture.head_filters,
            1,
            momentum=momentum,
            eps=eps,
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(architecture.head_filters, architecture.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N,classes) for `images` (N,C,S,S)."""
        features = self.head(self.layers(self.stem(images)))
        logits: Tensor = self.classifier(self.dropout(self.flatten(self.pool(features))))
        return logits


def build_network(
    architecture: Architecture,
    *,
    dropout: float = 0.2,
    seed: int = 0,
    batch_norm_momentum: float = 0.01,
    batch_norm_eps: float = 1e-3,
    zero_init_residual: bool = False,
) -> Network:
    """Return the network of `architecture`, in training mode, its weights drawn from `seed` alone.

    `batch_norm_momentum` is torch's: the published decay of 0.99 is 0.01 here. `zero_init_residual`
    starts the last batch norm of each layer with a skip at zero, so that the layer starts as its
    skip; it helps short trainings and leaves the regular convolution out, whose final ReLU would
    never wake again.

    Initialized as the MnasNet authors do (He et al. 2015 by fan-out, the classifier uniform); no
    global random state is read or changed.
    """
    # The modules' own initialization, overwritten below, would advance torch's global generator.
    with torch.random.fork_rng(devices=[]):
        network = Network(
            architecture,
            dropout=dropout,
            batch_norm_momentum=batch_norm_momentum,
            batch_norm_eps=batch_norm_eps,
        )
    _initialize(network, torch.Generator().manual_seed(seed))
    if zero_init_residual:
        _zero_residuals(network)
    return network


def _skip(skip_op: SkipOp, stride: int) -> nn.Module | None:
    if skip_op is SkipOp.IDENTITY:
        return nn.Identity()
    if skip_op is SkipOp.MAX_POOL:
        return nn.MaxPool2d(3, stride=stride, padding=1)
    if skip_op is SkipOp.AVG_POOL:
        return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
    return None


def _initialize(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            kernel_height, kernel_width = module.kernel_size
            fan_out = kernel_height * kernel_width * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.in_features + module.out_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)


def _zero_residuals(network: Network) -> None:
    for layer in network.layers:
        assert isinstance(layer, LayerModule)
        project = layer.body.get_submodule("project") if hasattr(layer.body, "project") else None
        if layer.skip is not None and isinstance(project, ConvNorm):
            nn.init.zeros_(project.norm.weight)
