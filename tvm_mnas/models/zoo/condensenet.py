"""CondenseNet-74 (Huang et al. 2018) as it runs after training: learned groups as index and grouped convolution.

Which inputs a group keeps is learned, so it belongs to the weights. Here it is drawn from the seed: the shapes, the
gather and the cost are those of a trained network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tvm_mnas.models.zoo.building import ChannelShuffle, conv, norm, seeded

_STAGES = (4, 6, 8, 10, 8)
_GROWTH = (8, 16, 32, 64, 128)
_BOTTLENECK = 4
_KEPT = 0.5
"""Share of the features that the classifier keeps."""


class Gather(nn.Module):
    """The channels or features of a learned index, in its order: (N,C,...) -> (N,K,...)."""

    index: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.register_buffer("index", torch.arange(outputs) % inputs)

    def draw(self, generator: torch.Generator) -> None:
        """Take another index, in which no input stands twice unless there are too few."""
        order = torch.randperm(self.inputs, generator=generator)
        self.index.copy_(order[torch.arange(len(self.index)) % self.inputs])

    def forward(self, features: Tensor) -> Tensor:
        """Return the selected channels."""
        return torch.index_select(features, 1, self.index)


class DenseLayer(nn.Module):
    """Figure 2 of its paper: gather, grouped 1x1, shuffle, grouped 3x3; its output joins the input.

    The second batch norm stands before the shuffle, not after it: the same function, and it folds.
    """

    def __init__(self, channels: int, growth: int, size: int, groups: int) -> None:
        super().__init__()
        width = _BOTTLENECK * growth
        self.body = nn.Sequential(
            Gather(channels, channels),
            norm(channels),
            nn.ReLU(),
            conv(channels, width, groups=groups),
            norm(width),
            nn.ReLU(),
            ChannelShuffle(width, groups, size, size),
            conv(width, growth, 3, groups=groups),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,C+growth,H,W)."""
        return torch.cat([features, self.body(features)], 1)


def build_condensenet(*, groups: int, seed: int, classes: int = 1000) -> nn.Module:
    """Return CondenseNet-74 with G=C=`groups` for images of 224x224: (N,3,224,224) -> (N,classes)."""

    def make() -> nn.Sequential:
        channels, size = 2 * _GROWTH[0], 112
        network = nn.Sequential(conv(3, channels, 3, stride=2))
        for stage, (layers, growth) in enumerate(zip(_STAGES, _GROWTH, strict=True)):
            if stage > 0:
                network.append(nn.AvgPool2d(2))
                size //= 2
            for _ in range(layers):
                network.append(DenseLayer(channels, growth, size, groups))
                channels += growth
        kept = int(channels * _KEPT)
        for module in (
            norm(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            Gather(channels, kept),
            nn.Linear(kept, classes),
        ):
            network.append(module)
        return network

    network = seeded(make, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, Gather):
            module.draw(generator)
    return network
