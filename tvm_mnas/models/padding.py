"""Channels rounded up to whole vectors, with zeros: the same function, in kernels that fill the vector unit.

A convolution with 24 output channels works with half vectors where whole ones have 16 lanes. With 8 more channels of
zero weights and zero biases it is faster, and what follows multiplies those channels by zero.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass

from torch import Tensor, fx, nn

_CHANNELWISE = (
    nn.ReLU,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
"""Modules that leave the number of channels and need not know it."""
_ELEMENTWISE = (operator.add, operator.mul)


@dataclass(frozen=True, slots=True)
class _Channels:
    """How many channels a value has, and how many with the zeros."""

    real: int
    padded: int


def pad_channels(network: nn.Module, multiple: int) -> nn.Module:
    """Return `network` with its inner channels at multiples of `multiple`; its outputs are the same.

    `network` is not changed; it is in eval mode, its batch norms folded. Where it holds anything but convolutions
    (full or depthwise), channel-wise operations, sums, products and dense layers, it is returned as it is.
    """
    # Its modules are those of `network` until they are replaced.
    padded = fx.symbolic_trace(network)
    channels: dict[fx.Node, _Channels] = {}
    for node in padded.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node) or channels[result].real != channels[result].padded:
                return network
            continue
        found = _pad(padded, node, channels, multiple)
        if found is None:
            return network
        channels[node] = found
    return padded.eval()


def _pad(
    network: fx.GraphModule, node: fx.Node, channels: dict[fx.Node, _Channels], multiple: int
) -> _Channels | None:
    """Pad what `node` calls; return its channels, None if that cannot be done."""
    sources = [channels.get(argument) for argument in node.args if isinstance(argument, fx.Node)]
    if node.op == "call_function" and node.target in _ELEMENTWISE:
        first = sources[0] if len(sources) == 2 and sources[0] == sources[1] else None
        return first
    if node.op != "call_module" or len(sources) != 1:
        return None
    assert isinstance(node.target, str)
    module = network.get_submodule(node.target)
    (source,) = sources
    if isinstance(module, nn.Conv2d):
        conv = _padded_conv(module, source, multiple)
        if conv is None:
            return None
        network.set_submodule(node.target, conv)
        return _Channels(module.out_channels, conv.out_channels)
    if isinstance(module, nn.Linear):
        if source is None or module.in_features != source.real:
            return None
        network.set_submodule(node.target, _padded_linear(module, source.padded))
        return _Channels(module.out_features, module.out_features)
    return source if isinstance(module, _CHANNELWISE) else None


def _padded_conv(conv: nn.Conv2d, source: _Channels | None, multiple: int) -> nn.Conv2d | None:
    depthwise = conv.groups > 1
    if depthwise and not conv.groups == conv.in_channels == conv.out_channels:
        return None
    if depthwise and source is None:
        return None
    # The image's channels are the caller's.
    inputs = conv.in_channels if source is None else source.padded
    outputs = inputs if depthwise else -(-conv.out_channels // multiple) * multiple
    padded = copy.deepcopy(conv)
    padded.in_channels, padded.out_channels = inputs, outputs
    padded.groups = inputs if depthwise else 1
    padded.weight = _with_zeros(
        conv.weight, (outputs, inputs // padded.groups, *conv.weight.shape[2:])
    )
    if conv.bias is not None:
        padded.bias = _with_zeros(conv.bias, (outputs,))
    return padded


def _padded_linear(linear: nn.Linear, inputs: int) -> nn.Linear:
    padded = copy.deepcopy(linear)
    padded.in_features = inputs
    padded.weight = _with_zeros(linear.weight, (linear.out_features, inputs))
    return padded


def _with_zeros(values: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    """Return `values` in a tensor of `shape`, zeros elsewhere."""
    larger = values.new_zeros(shape)
    larger[tuple(slice(extent) for extent in values.shape)] = values.detach()
    return nn.Parameter(larger, requires_grad=False)
