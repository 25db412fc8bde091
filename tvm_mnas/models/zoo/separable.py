"""Depthwise separable convolutions by themselves: what the paper's equations 5 and 6 are about."""

from __future__ import annotations

from torch import nn

from tvm_mnas.models.zoo.building import conv, conv_norm_relu, norm, seeded


def build_separable(channels: int, *, kernel_size: int, repeats: int, seed: int) -> nn.Module:
    """Return a network around `repeats` separable convolutions (Figure 7f): (N,3,S,S) -> (N,channels)."""

    def make() -> nn.Sequential:
        network = nn.Sequential(conv_norm_relu(3, channels))
        for _ in range(repeats):
            network.extend(
                [
                    conv_norm_relu(channels, channels, kernel_size, groups=channels),
                    conv(channels, channels),
                    norm(channels),
                ]
            )
        return network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])

    return seeded(make, seed)
