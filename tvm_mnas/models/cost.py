"""What a network costs on paper: parameters and mult-adds, an architecture's counted without torch.

A mult-add count says little about latency (paper, section 1); it is here for tables and for sanity
checks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_mnas.space.architecture import Architecture, ConvOp, Layer

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Cost:
    """Trainable parameters, and mult-adds of one inference at batch size 1.

    Mult-adds are those of convolutions (squeeze-and-excitation included) and of the dense layer;
    batch norm, which folds away, activations and pooling are not counted, as in the paper's tables.
    """

    parameters: int
    mult_adds: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.mult_adds + other.mult_adds)


def count_cost(architecture: Architecture) -> Cost:
    """Return parameters and mult-adds of the network that `build_network` makes."""
    stem_size = architecture.stem_output_size
    cost = _conv(3, architecture.input_channels, architecture.stem_channels, stem_size)
    for layer in architecture.layers:
        cost += layer_cost(layer)
    last = architecture.layers[-1]
    head = architecture.head_filters
    cost += _conv(1, last.out_channels, head, last.output_size)
    dense = head * architecture.classes
    return cost + Cost(parameters=dense + architecture.classes, mult_adds=dense)


def count_module(network: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Return what any torch network costs for one input of `shape` (N,C,H,W).

    Parameters are the trainable ones. Mult-adds are those of its convolution and linear modules, seen as they run on
    shapes alone: nothing is computed and `network` stays as it is.
    """
    import copy

    import torch

    mult_adds = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal mult_adds
        assert isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        # One mult-add per output and weight of a filter, which has the other dimensions of the weights.
        mult_adds += output.numel() * math.prod(module.weight.shape[1:])

    parameters = sum(values.numel() for values in network.parameters() if values.requires_grad)
    shapes = copy.deepcopy(network).to("meta").eval()
    for module in shapes.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes(torch.empty(shape, device="meta"))
    return Cost(parameters=parameters, mult_adds=mult_adds)


def layer_cost(layer: Layer) -> Cost:
    """Return the parameters and mult-adds of one layer."""
    kernel, expanded = layer.kernel_size, layer.expanded_channels
    if layer.conv_op is ConvOp.CONV:
        cost = _conv(kernel, layer.in_channels, layer.out_channels, layer.output_size)
    else:
        cost = _conv(kernel, 1, expanded, layer.output_size)
        cost += _conv(1, expanded, layer.out_channels, layer.output_size)
        if layer.conv_op is ConvOp.MBCONV:
            cost += _conv(1, layer.in_channels, expanded, layer.input_size)
    if layer.se_channels:
        dense = 2 * expanded * layer.se_channels
        cost += Cost(parameters=dense + expanded + layer.se_channels, mult_adds=dense)
    return cost


def _conv(kernel: int, channels_per_group: int, out_channels: int, output_size: int) -> Cost:
    """Cost of a convolution without bias and its batch norm, whose scale and shift are trained."""
    weights = kernel * kernel * channels_per_group * out_channels
    return Cost(
        parameters=weights + 2 * out_channels, mult_adds=weights * output_size * output_size
    )
