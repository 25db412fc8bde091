"""SqueezeNext (Gholami et al. 2018), 2.0-SqNxt-23v5: two squeezes, then a 3x3 split into 3x1 and 1x3."""

from __future__ import annotations

from torch import Tensor, nn

from tvm_mnas.models.zoo.building import Classifier, conv_norm_relu, seeded

_STEM = 64
_STAGES = ((64, 2, 1), (128, 4, 2), (256, 14, 2), (512, 1, 2))
"""Channels, blocks and stride of each stage."""
_HEAD = 128


class SqueezeBlock(nn.Module):
    """1x1 to a half, 1x1 to a quarter, the two thin convolutions, 1x1 back; the input is added."""

    def __init__(self, channels: int, *, tall_first: bool) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        thin = ((3, 1), (1, 3)) if tall_first else ((1, 3), (3, 1))
        self.body = nn.Sequential(
            conv_norm_relu(channels, half),
            conv_norm_relu(half, quarter),
            conv_norm_relu(quarter, half, thin[0]),
            conv_norm_relu(half, half, thin[1]),
            conv_norm_relu(half, channels),
        )
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,C,H,W), as large as `features`."""
        output: Tensor = self.relu(features + self.body(features))
        return output


def build_squeezenext(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return 2.0-SqNxt-23v5, (N,3,227,227) -> (N,classes), as its authors' Caffe files describe it."""

    def make() -> nn.Sequential:
        network = nn.Sequential(
            conv_norm_relu(3, _STEM, 5, stride=2, padded=False),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )
        inputs = _STEM
        for channels, blocks, stride in _STAGES:
            network.append(conv_norm_relu(inputs, channels, stride=stride))
            for block in range(blocks):
                network.append(SqueezeBlock(channels, tall_first=block % 2 == 0))
            inputs = channels
        return network.append(conv_norm_relu(inputs, _HEAD)).append(Classifier(_HEAD, classes))

    return seeded(make, seed)
