"""Batch norms of a network that is not trained any more: folded into convolutions, or two numbers a channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse


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
        folded: nn.Module = fuse(network.eval())
    finally:
        network.train(was_training)
    for name, module in list(folded.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            folded.set_submodule(name, ChannelScale(module))
    return folded.eval()
