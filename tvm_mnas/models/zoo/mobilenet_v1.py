"""MobileNetV1 (Howard et al. 2017), Table 1 of its paper: thirteen depthwise separable convolutions."""

from __future__ import annotations

from torch import nn

from tvm_mnas.models.zoo.building import Classifier, conv_norm_relu, seeded

_STEM = 32
_LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each separable convolution."""


def build_mobilenet_v1(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return MobileNetV1, (N,3,S,S) -> (N,classes), with batch norm and ReLU after both halves of a layer."""

    def make() -> nn.Sequential:
        network = nn.Sequential(conv_norm_relu(3, _STEM, 3, stride=2))
        channels = _STEM
        for out_channels, stride in _LAYERS:
            network.append(conv_norm_relu(channels, channels, 3, stride=stride, groups=channels))
            network.append(conv_norm_relu(channels, out_channels))
            channels = out_channels
        return network.append(Classifier(channels, classes))

    return seeded(make, seed)
