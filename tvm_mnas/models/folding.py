"""Batch norms of a network that is not trained any more: folded into convolutions, or two numbers a channel."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_FOLDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}

Layer = TypeVar("Layer", nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class ChannelScale(nn.Module):
    """What a batch norm does in eval mode: each channel times a number, plus a number. (N,C,H,W) -> (N,C,H,W)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise ValueError("a batch norm is folded with its running mean and variance")
        scale = torch.rsqrt(variance + norm.eps)
        shift = torch.zeros_like(mean)
        if norm.affine:
            scale, shift = scale * norm.weight, norm.bias
        self.register_buffer("weight", scale.detach().reshape(1, -1, 1, 1))
        self.register_buffer("bias", (shift - mean * scale).detach().reshape(1, -1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`, scaled and shifted."""
        return features * self.weight + self.bias


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return a copy of `network` in eval mode without batch norms.

    Each is folded into the convolution before it; one that follows anything else is a :class:`ChannelScale`.
    """
    was_training = network.training
    try:
        # In eval mode: what a module does in training must not get into the graph.
        graph = fx.symbolic_trace(network.eval()).graph
    finally:
        network.train(was_training)
    modules = dict(network.named_modules(remove_duplicate=False))
    memo: dict[int, object] = {}
    for node in _folded_norms(graph, modules):
        convolution = node.args[0]
        assert isinstance(convolution, fx.Node)
        memo[id(modules[str(convolution.target)])] = _fold(
            modules[str(convolution.target)], modules[str(node.target)]
        )
        node.replace_all_uses_with(convolution)
        graph.erase_node(node)
    # What the graph calls, and no more: copying a network with all that is around it takes longer than the rest.
    parts = {
        str(node.target): copy.deepcopy(operator.attrgetter(str(node.target))(network), memo)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    folded = fx.GraphModule(parts, graph)
    for name, module in list(folded.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            folded.set_submodule(name, ChannelScale(module))
    return folded.eval()


def _folded_norms(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """Return the calls of batch norms that can be folded: of the only use of a convolution that is called once."""
    called = [node for node in graph.nodes if node.op == "call_module"]
    # One module may have several names.
    calls = Counter(id(modules[node.target]) for node in called)

    def is_folded(node: fx.Node) -> bool:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            return False
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        return (
            type(norm) is _FOLDED.get(type(convolution))
            and calls[id(convolution)] == calls[id(norm)] == 1
            and norm.running_mean is not None
        )

    return [node for node in called if is_folded(node)]


def _fold(convolution: Any, norm: Any) -> Any:
    """Return a convolution that computes what `convolution` and `norm` after it do; it shares no tensor with them."""
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return with_weights(convolution, weight, bias)


def with_weights(layer: Layer, weight: nn.Parameter, bias: nn.Parameter | None) -> Layer:
    """Return a copy of a convolution or dense layer with these weights; nothing of the old ones is copied."""
    other = copy.copy(layer)
    other._parameters = {"weight": weight, "bias": bias}
    return other
