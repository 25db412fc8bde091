"""YOLOv2 (Redmon and Farhadi 2017) on Darknet-19, as in github.com/pjreddie/darknet, cfg/yolov2.cfg, for COCO."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tvm_mnas.models.detection.decoding import YoloDecoder
from tvm_mnas.models.detection.detector import Detector
from tvm_mnas.models.detection.suppression import SuppressionRule
from tvm_mnas.models.zoo.building import conv, norm, seeded

_ANCHORS = 5
_CLASSES = 80
_SLOPE = 0.1
_STRIDE = 32
_PASSED = 64
"""Channels that the finer map is brought to before it is laid beside the coarse one."""

# Channels and kernel of each convolution; None is a pooling.
_FINE = (
    (32, 3),
    None,
    (64, 3),
    None,
    *((128, 3), (64, 1), (128, 3)),
    None,
    *((256, 3), (128, 1), (256, 3)),
    None,
    *((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
)
_COARSE = (
    None,
    *((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
    *((1024, 3), (1024, 3)),
)


class YoloV2(nn.Module):
    """Darknet-19, the finer map laid beside the coarse one: (N,3,S,S) -> (N,5*(5+classes),S/32,S/32)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine = _convolutions(3, _FINE)
        self.coarse = _convolutions(512, _COARSE)
        self.passed = _leaky(512, _PASSED, 1)
        # The order of its channels is not Darknet's, which the weights that follow take up.
        self.reorganize = nn.PixelUnshuffle(2)
        self.join = _leaky(1024 + 4 * _PASSED, 1024, 3)
        self.predict = nn.Conv2d(1024, _ANCHORS * (5 + classes), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw predictions for `images`."""
        fine = self.fine(images)
        both = torch.cat([self.reorganize(self.passed(fine)), self.coarse(fine)], 1)
        predictions: Tensor = self.predict(self.join(both))
        return predictions


_RULE = SuppressionRule(score_threshold=0.005, overlap_threshold=0.45, total=200, per_class=200)
"""What `darknet detector valid` takes."""


def build_yolo_v2(*, seed: int, classes: int = _CLASSES, input_size: int = 416) -> Detector:
    """Return YOLOv2, (N,3,S,S) -> detections (N,200,6), for an `input_size` S that is a multiple of 32."""
    return Detector(
        seeded(lambda: YoloV2(classes), seed), YoloDecoder(input_size // _STRIDE), _RULE
    )


def _convolutions(channels: int, layers: tuple[tuple[int, int] | None, ...]) -> nn.Module:
    network = nn.Sequential()
    for layer in layers:
        if layer is None:
            network.append(nn.MaxPool2d(2))
            continue
        width, kernel = layer
        network.append(_leaky(channels, width, kernel))
        channels = width
    return network


def _leaky(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    return nn.Sequential(
        conv(in_channels, out_channels, kernel), norm(out_channels), nn.LeakyReLU(_SLOPE)
    )
