"""ShuffleNet (Zhang et al. 2018): grouped 1x1 convolutions with shuffled channels between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tvm_mnas.models.zoo.building import (
    ChannelShuffle,
    Classifier,
    conv,
    conv_norm_relu,
    norm,
    seeded,
)

_UNITS = (4, 8, 4)
_BOTTLENECK = 4
"""By how much a unit's depthwise convolution is narrower than its output."""


class ShuffleUnit(nn.Module):
    """Figure 2 of its paper: 1x1 in groups, shuffle, depthwise 3x3, 1x1 in groups, and the input again.

    Summed where shapes agree; with stride 2 the averaged input and the new channels stand side by side.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, *, groups: int, first: bool
    ) -> None:
        super().__init__()
        self.strided = in_channels != out_channels
        width = out_channels // _BOTTLENECK
        # The input of the very first unit is too narrow for groups (section 3.2 of its paper).
        self.reduce = conv_norm_relu(in_channels, width, groups=1 if first else groups)
        self.shuffle = ChannelShuffle(width, groups, size, size)
        self.depthwise = nn.Sequential(
            conv(width, width, 3, stride=2 if self.strided else 1, groups=width), norm(width)
        )
        added = out_channels - in_channels if self.strided else out_channels
        self.expand = nn.Sequential(conv(width, added, groups=groups), norm(added))
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if self.strided else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,out_channels,H/s,W/s)."""
        new: Tensor = self.expand(self.depthwise(self.shuffle(self.reduce(features))))
        kept: Tensor = self.pool(features)
        if self.strided:
            return torch.cat([kept, self.relu(new)], 1)
        output: Tensor = self.relu(new + kept)
        return output


def build_shufflenet(
    *, stem: int, channels: int, groups: int, seed: int, classes: int = 1000
) -> nn.Module:
    """Return a ShuffleNet for images of 224x224: (N,3,224,224) -> (N,classes).

    `channels` are those of the first stage, which double with each of the others.
    """

    def make() -> nn.Sequential:
        network = nn.Sequential(
            conv_norm_relu(3, stem, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        inputs, size = stem, 56
        for stage, units in enumerate(_UNITS):
            outputs = channels << stage
            for unit in range(units):
                network.append(
                    ShuffleUnit(inputs, outputs, size, groups=groups, first=stage == unit == 0)
                )
                inputs, size = outputs, size // 2 if unit == 0 else size
        return network.append(Classifier(inputs, classes, bias=False))

    return seeded(make, seed)
