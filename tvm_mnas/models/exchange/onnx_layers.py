"""ONNX's operators over pixels as torch's: convolutions, poolings, paddings, resizing, normalization, dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_mnas.models.exchange.building import UnsupportedError, Value
from tvm_mnas.models.exchange.onnx_call import Call

_BORDERS = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def convolution(call: Call) -> Value:
    """Conv, over two axes; its weights must be constant."""
    source, weight = call.input(0), call.constant(1)
    require_images(source, "a convolution")
    bias = _bias(call, weight.shape[0])
    kernel = list(weight.shape[2:])
    strides, dilations = call.numbers("strides", (1, 1)), call.numbers("dilations", (1, 1))
    before, after = _padding(call, source, kernel, strides, dilations)
    source, padding = _own_border(call, source, before, after, 0.0)
    groups = int(call.number("group", 1))
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        padding,
        (dilations[0], dilations[1]),
        groups,
    )
    _set_weights(layer, weight, bias)
    return call.graph.module(layer, source)


def transposed_convolution(call: Call) -> Value:
    """ConvTranspose, over two axes; its weights must be constant."""
    source, weight = call.input(0), call.constant(1)
    require_images(source, "a transposed convolution")
    bias = None if call.optional(2) is None else call.constant(2)
    if call.text("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in call.attributes:
        raise UnsupportedError("its padding must be given by pads")
    pads = call.numbers("pads", (0, 0, 0, 0))
    extra = call.numbers("output_padding", (0, 0))
    # torch cuts both sides alike; what more there is to cut behind is a smaller output padding.
    outer = [extra[axis] + pads[axis] - pads[axis + 2] for axis in (0, 1)]
    if min(outer) < 0:
        raise UnsupportedError(f"pads {pads} cut more behind than output_padding adds")
    strides, dilations = call.numbers("strides", (1, 1)), call.numbers("dilations", (1, 1))
    groups = int(call.number("group", 1))
    layer = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * groups,
        (weight.shape[2], weight.shape[3]),
        (strides[0], strides[1]),
        (pads[0], pads[1]),
        (outer[0], outer[1]),
        groups,
        bias is not None,
        (dilations[0], dilations[1]),
    )
    _set_weights(layer, weight, bias)
    return call.graph.module(layer, source)


def batch_normalization(call: Call) -> Value:
    """BatchNormalization, as in inference, of what is no convolution's output: those are folded before."""
    if call.number("training_mode", 0) or call.number("spatial", 1) != 1:
        raise UnsupportedError("it must be in inference mode, with one number a channel")
    weight, bias, mean, variance = (call.constant(index) for index in range(1, 5))
    source = call.input(0)
    require_images(source, "a batch normalization")
    layer = nn.BatchNorm2d(len(weight), eps=call.number("epsilon", 1e-5))
    _set_weights(layer, weight, bias)
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return call.graph.module(layer, source)


def max_pooling(call: Call) -> Value:
    """MaxPool, over two axes, without the indices."""
    if call.outputs > 1:
        raise UnsupportedError("its indices are not at hand")
    source, kernel, strides, before, after = _pooling(call, call.numbers("dilations", (1, 1)))
    source, padding = _own_border(call, source, before, after, -math.inf, most=kernel)
    dilations = call.numbers("dilations", (1, 1))
    layer = nn.MaxPool2d(
        (kernel[0], kernel[1]), (strides[0], strides[1]), padding, (dilations[0], dilations[1])
    )
    return call.graph.module(layer, source)


def average_pooling(call: Call) -> Value:
    """AveragePool, over two axes."""
    if call.numbers("dilations", (1, 1)) != [1, 1]:
        raise UnsupportedError("its dilations must be 1")
    original = call.input(0)
    source, kernel, strides, before, after = _pooling(call, [1, 1])
    if not any(before) and not any(after):
        return call.graph.module(
            nn.AvgPool2d((kernel[0], kernel[1]), (strides[0], strides[1])), source
        )
    if call.number("count_include_pad", 0) and call.number("ceil_mode", 0):
        raise UnsupportedError("ceil_mode with count_include_pad")
    border = (before[1], after[1], before[0], after[0])
    layer = nn.AvgPool2d((kernel[0], kernel[1]), (strides[0], strides[1]))
    averages = call.graph.module(layer, call.graph.function(F.pad, source, border))
    if call.number("count_include_pad", 0):
        return averages
    # How much of each window lies within the image is the same for all images.
    share = layer(F.pad(torch.ones(1, 1, *original.example.shape[2:]), border))
    return call.graph.function(torch.mul, averages, Value(1 / share))


def global_average(call: Call) -> Value:
    """GlobalAveragePool."""
    require_images(call.input(0), "a pooling")
    return call.graph.module(nn.AdaptiveAvgPool2d(1), call.input(0))


def global_maximum(call: Call) -> Value:
    """GlobalMaxPool."""
    require_images(call.input(0), "a pooling")
    return call.graph.module(nn.AdaptiveMaxPool2d(1), call.input(0))


def dense(call: Call) -> Value:
    """Gemm with constant weights."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if call.number("transA", 0) or call.input(0).example.dim() != 2:
        raise UnsupportedError("its first matrix must be (N,features)")
    weight = call.constant(1) * alpha
    weight = weight if call.number("transB", 0) else weight.T
    bias = _bias(call, weight.shape[0]) * beta
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    _set_weights(layer, weight, bias.expand(weight.shape[0]))
    return call.graph.module(layer, call.input(0))


def product(call: Call) -> Value:
    """MatMul: a dense layer where its second matrix is constant."""
    second = call.input(1)
    if second.constant and second.example.dim() == 2:
        layer = nn.Linear(second.example.shape[0], second.example.shape[1], bias=False)
        _set_weights(layer, second.example.T, None)
        return call.graph.module(layer, call.input(0))
    return call.graph.function(torch.matmul, call.input(0), second)


def border(call: Call) -> Value:
    """Pad, of any axes."""
    mode = call.text("mode", "constant")
    if mode not in _BORDERS or call.optional(3) is not None:
        raise UnsupportedError(f"mode {mode!r}" if mode not in _BORDERS else "its axes are given")
    pads = call.setting("pads", 1) or []
    fill = call.setting("value", 2) or [0.0]
    half = len(pads) // 2
    widths: list[int] = []
    for axis in reversed(range(half)):
        widths += [int(pads[axis]), int(pads[axis + half])]
    if mode != "constant":
        while widths[-2:] == [0, 0]:
            widths = widths[:-2]
        if len(widths) > 4 or min(widths, default=0) < 0:
            raise UnsupportedError(f"mode {mode!r} beyond the pixels")
        return call.graph.function(F.pad, call.input(0), tuple(widths), _BORDERS[mode])
    return call.graph.function(F.pad, call.input(0), tuple(widths), mode, float(fill[0]))


def instance_normalization(call: Call) -> Value:
    """InstanceNormalization."""
    weight, bias = call.input(1), call.input(2)
    return call.graph.function(
        F.instance_norm,
        call.input(0),
        None,
        None,
        weight,
        bias,
        True,
        0.0,
        call.number("epsilon", 1e-5),
    )


def layer_normalization(call: Call) -> Value:
    """LayerNormalization."""
    source = call.input(0)
    axis = int(call.number("axis", -1)) % source.example.dim()
    return call.graph.function(
        F.layer_norm,
        source,
        tuple(source.example.shape[axis:]),
        call.optional(1),
        call.optional(2),
        call.number("epsilon", 1e-5),
    )


def local_response(call: Call) -> Value:
    """LRN."""
    return call.graph.function(
        F.local_response_norm,
        call.input(0),
        int(call.number("size", 1)),
        call.number("alpha", 1e-4),
        call.number("beta", 0.75),
        call.number("bias", 1.0),
    )


def require_images(value: Value, what: str) -> None:
    """Refuse what has not the four axes of images."""
    if value.example.dim() != 4:
        raise UnsupportedError(f"{what} of {value.example.dim()} axes, where it is known for four")


def _bias(call: Call, channels: int) -> Tensor:
    """Return the bias, zeros where there is none.

    Exporters leave zeros out; with them a layer has the kernel of its twin whose zeros have been trained.
    """
    return torch.zeros(channels) if call.optional(2) is None else call.constant(2)


def _set_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach().clone().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone().contiguous(), requires_grad=False)


def _padding(
    call: Call,
    source: Value,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return the padding before and behind both axes of pixels, that of `auto_pad` by the specification."""
    way = call.text("auto_pad", "NOTSET")
    if way == "VALID":
        return [0, 0], [0, 0]
    if way == "NOTSET":
        pads = call.numbers("pads", (0, 0, 0, 0))
        return pads[:2], pads[2:]
    before, after = [], []
    for axis in (0, 1):
        size = source.example.shape[2 + axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
        less, more = total // 2, total - total // 2
        before.append(more if way == "SAME_LOWER" else less)
        after.append(less if way == "SAME_LOWER" else more)
    return before, after


def _own_border(
    call: Call,
    source: Value,
    before: list[int],
    after: list[int],
    fill: float,
    most: Sequence[int] | None = None,
) -> tuple[Value, tuple[int, int]]:
    """Return `source`, with a border of its own where the padding is not the same on both sides, and what is left.

    torch's poolings pad by half of their kernel at `most`.
    """
    fits = most is None or all(2 * pad <= size for pad, size in zip(before, most, strict=True))
    if before == after and fits:
        return source, (before[0], before[1])
    widths = (before[1], after[1], before[0], after[0])
    return call.graph.function(F.pad, source, widths, "constant", fill), (0, 0)


def _pooling(
    call: Call, dilations: Sequence[int]
) -> tuple[Value, list[int], list[int], list[int], list[int]]:
    """Return source, kernel, strides and the padding before and behind, that of ceil_mode included."""
    source = call.input(0)
    require_images(source, "a pooling")
    kernel = call.numbers("kernel_shape", ())
    strides = call.numbers("strides", (1, 1))
    before, after = _padding(call, source, kernel, strides, dilations)
    if call.number("ceil_mode", 0) and call.text("auto_pad", "NOTSET") == "NOTSET":
        for axis in (0, 1):
            size = source.example.shape[2 + axis] + before[axis] + after[axis]
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            windows = -(-(size - reach) // strides[axis]) + 1
            # A window that begins behind the image and its border is none.
            if (windows - 1) * strides[axis] >= source.example.shape[2 + axis] + before[axis]:
                windows -= 1
            after[axis] += max((windows - 1) * strides[axis] + reach - size, 0)
    return source, kernel, strides, before, after
