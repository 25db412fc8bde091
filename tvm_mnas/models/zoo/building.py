"""What the zoo's modules are made of: a normalized convolution, and weights drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_BATCH_NORM_EPS = 1e-3


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return what `make` returns, its weights drawn from `seed`; torch's global generator stays as it is.

    Convolutions as He et al. 2015 by fan-out, dense layers uniform by both fans, biases zero.
    """
    with torch.random.fork_rng(devices=[]):
        network = make()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out), generator=generator)
        elif isinstance(module, nn.Linear):
            bound = math.sqrt(6.0 / (module.in_features + module.out_features))
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padded: bool = True,
) -> nn.Conv2d:
    """Return a convolution without bias, padded so that its stride alone shrinks the image."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height // 2), dilation * (width // 2)) if padded else (0, 0)
    return nn.Conv2d(
        in_channels,
        out_channels,
        (height, width),
        stride=stride,
        padding=padding,
        groups=groups,
        dilation=dilation,
        bias=False,
    )


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm over `channels`."""
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    padded: bool = True,
) -> nn.Sequential:
    """Return convolution, batch norm and ReLU: (N,C,H,W) -> (N,K,H/s,W/s)."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, stride=stride, groups=groups, padded=padded),
        norm(out_channels),
        nn.ReLU(),
    )


class Classifier(nn.Module):
    """Mean of each channel, then one dense layer: (N,C,H,W) -> (N,classes)."""

    def __init__(self, channels: int, classes: int, *, bias: bool = True) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(channels, classes, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N,classes)."""
        logits: Tensor = self.dense(self.flatten(self.pool(features)))
        return logits


class ChannelShuffle(nn.Module):
    """Channel `i` of group `g` moves to place `g` of the i-th run: (N,C,H,W) -> (N,C,H,W)."""

    def __init__(self, channels: int, groups: int, height: int, width: int) -> None:
        super().__init__()
        self.split = (-1, groups, channels // groups, height, width)
        self.joined = (-1, channels, height, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` with the channels of the groups interleaved."""
        return features.reshape(self.split).transpose(1, 2).reshape(self.joined)
