"""Channels rounded up to whole vectors, with zeros: the same function, in kernels that fill the vector unit.

A convolution with 24 output channels works with half vectors where whole ones have 16 lanes. With 8 more channels of
zero weights and zero biases it is faster, and what follows multiplies those channels by zero, or does not read them.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, fx, nn

from tvm_mnas.models.folding import with_weights

_CHANNELWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.SiLU,
    nn.Tanh,
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


@dataclass(slots=True, eq=False)
class _Channels:
    """The channels of values that must have equally many: a convolution's output, its activation, what is added to it.

    `fixed` ones get no zeros, because something reads them that would take zeros for channels. `merged` are those that
    they turned out to be one with.
    """

    real: int
    fixed: bool = False
    merged: _Channels | None = None

    def root(self) -> _Channels:
        """Return what stands for all that were merged."""
        return self if self.merged is None else self.merged.root()

    def padded(self, multiple: int) -> int:
        """Return how many there are with the zeros."""
        root = self.root()
        return root.real if root.fixed else -(-root.real // multiple) * multiple


_INPUTS = 8
"""So many inputs are summed over at a time: fewer kinds of kernels than with any number, and they load as vectors."""
_UNKNOWN = 0
"""The channels of a value that are not counted; they stay as they are."""


def pad_channels(network: nn.Module, multiple: int) -> nn.Module:
    """Return `network` with its inner channels at multiples of `multiple`; its outputs are the same.

    `network` is not changed; it is in eval mode, its batch norms folded. Channels get no zeros where they reach its
    output, or anything but full and depthwise convolutions, channel-wise operations, sums, products and dense layers.
    """
    # Its modules are those of `network` until they are replaced.
    padded = fx.symbolic_trace(network)
    layers = _layers(padded)
    channels: dict[fx.Node, _Channels] = {}
    for node in padded.graph.nodes:
        sources = [channels[source].root() for source in node.all_input_nodes]
        channels[node] = _channels(padded, node, sources, layers.get(node))
    changed = False
    for node, layer in layers.items():
        source = channels[node.all_input_nodes[0]]
        wider = _padded_layer(layer, source, channels[node], multiple)
        if wider is not layer:
            padded.set_submodule(str(node.target), wider)
            changed = True
    return padded.eval() if changed else network


_Layer = nn.Conv2d | nn.Linear


class _OfFirstChannels(nn.Module):
    """A full convolution that reads the first channels of its images, (N,C,H,W), and none of those behind them."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        """Return what the convolution makes of them: (N,O,H,W)."""
        result: Tensor = self.convolution(images[:, : self.convolution.in_channels])
        return result


def _layers(network: fx.GraphModule) -> dict[fx.Node, _Layer]:
    """Return what may be widened, by its only call: full and depthwise convolutions, dense layers."""
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    found: dict[fx.Node, _Layer] = {}
    for node in calls:
        module = network.get_submodule(node.target)
        # A subclass may compute its weights, or something else with them.
        if times[node.target] > 1 or type(module) not in (nn.Conv2d, nn.Linear):
            continue
        assert isinstance(module, nn.Conv2d | nn.Linear)
        if isinstance(module, nn.Linear) or module.groups == 1 or _depthwise(module):
            found[node] = module
    return found


def _channels(
    network: fx.GraphModule, node: fx.Node, sources: list[_Channels], layer: _Layer | None
) -> _Channels:
    """Return the channels of what `node` computes from `sources`, and fix those that it cannot have padded."""
    if node.op == "call_function" and node.target in _ELEMENTWISE and len(sources) == 2:
        return _merge(*sources)
    if node.op == "call_module" and len(sources) == 1:
        (source,) = sources
        if isinstance(network.get_submodule(str(node.target)), _CHANNELWISE):
            return source
        if layer is not None and source.real in (_inputs(layer), _UNKNOWN):
            if isinstance(layer, nn.Linear):
                return _Channels(layer.out_features, fixed=True)
            return source if _depthwise(layer) else _Channels(layer.out_channels)
    for source in sources:
        source.fixed = True
    return _Channels(_UNKNOWN, fixed=True)


def _merge(first: _Channels, second: _Channels) -> _Channels:
    """Return both as one, fixed where one of them is; where they are not equally many, both are fixed."""
    same = first.real == second.real
    first.fixed = second.fixed = first.fixed or second.fixed or not same
    if same and second is not first:
        second.merged = first
    return first if same else _Channels(_UNKNOWN, fixed=True)


def _inputs(layer: _Layer) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _depthwise(conv: nn.Conv2d) -> bool:
    return 1 < conv.groups == conv.in_channels == conv.out_channels


def _padded_layer(
    layer: _Layer, source: _Channels, result: _Channels, multiple: int
) -> _Layer | _OfFirstChannels:
    """Return `layer` for as many channels as `source` and `result` have with the zeros, itself if those are its own."""
    # Those of the image, and of what else is not counted, are as many as the layer reads.
    inputs = source.padded(multiple) if source.root().real == _inputs(layer) else _inputs(layer)
    if isinstance(layer, nn.Linear):
        if inputs == layer.in_features:
            return layer
        dense = with_weights(
            layer, _with_zeros(layer.weight, (layer.out_features, inputs)), layer.bias
        )
        dense.in_features = inputs
        return dense
    if _depthwise(layer):
        return layer if inputs == layer.in_channels else _wider(layer, inputs, inputs)
    outputs = result.padded(multiple)
    read = min(inputs, -(-layer.in_channels // _INPUTS) * _INPUTS)
    same = (read, outputs) == (layer.in_channels, layer.out_channels)
    convolution = layer if same else _wider(layer, read, outputs)
    return convolution if read == inputs else _OfFirstChannels(convolution)


def _wider(layer: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    """Return `layer` for so many channels, full or depthwise as it is."""
    groups = inputs if _depthwise(layer) else 1
    shape = (outputs, inputs // groups, *layer.weight.shape[2:])
    bias = None if layer.bias is None else _with_zeros(layer.bias, (outputs,))
    wider = with_weights(layer, _with_zeros(layer.weight, shape), bias)
    wider.in_channels, wider.out_channels, wider.groups = inputs, outputs, groups
    return wider


def _with_zeros(values: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    """Return `values` in a tensor of `shape`, zeros elsewhere."""
    larger = values.new_zeros(shape)
    larger[tuple(slice(extent) for extent in values.shape)] = values.detach()
    return nn.Parameter(larger, requires_grad=False)
