"""SSD300 and SSD512 (Liu et al. 2016) on VGG-16, as github.com/weiliu89/caffe, branch ssd, builds them for COCO."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tvm_mnas.models.detection.anchors import AnchorMap, ssd_maps
from tvm_mnas.models.detection.decoding import Scoring, SsdDecoder
from tvm_mnas.models.detection.detector import Detector
from tvm_mnas.models.detection.suppression import SuppressionRule
from tvm_mnas.models.zoo.building import seeded
from tvm_mnas.models.zoo.heads import BOX, AnchorHeads
from tvm_mnas.models.zoo.ssdlite import COCO_CLASSES

_VGG = ((2, 64), (2, 128), (3, 256), (3, 512))
"""Convolutions and channels up to conv4_3; all but the last are followed by a pooling."""
_L2_SCALE = 20.0
_EPS = 1e-10


class L2Norm(nn.Module):
    """Each pixel divided by its length, times one number a channel: (N,C,H,W) -> (N,C,H,W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), _L2_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`, normalized."""
        length = torch.sqrt((features * features).sum(1, keepdim=True) + _EPS)
        return features / length * self.weight


class Ssd(nn.Module):
    """VGG-16, smaller and smaller maps, and what is predicted from each.

    (N,3,S,S) -> offsets (N,A,4), logits (N,A,classes).
    """

    def __init__(
        self, extra: list[nn.Module], widths: list[int], anchors: list[int], classes: int
    ) -> None:
        super().__init__()
        self.fine = _vgg_to_conv4()
        self.norm = L2Norm(512)
        self.coarse = _vgg_to_fc7()
        self.extra = nn.ModuleList(extra)
        pairs = list(zip(widths, anchors, strict=True))
        self.heads = AnchorHeads(
            [nn.Conv2d(width, count * BOX, 3, padding=1) for width, count in pairs],
            [nn.Conv2d(width, count * classes, 3, padding=1) for width, count in pairs],
            classes,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw predictions for `images`."""
        fine = self.fine(images)
        features = self.coarse(fine)
        maps = [self.norm(fine), features]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        predictions: tuple[Tensor, Tensor] = self.heads(maps)
        return predictions


_SSD300 = ssd_maps(300, (38, 19, 10, 5, 3, 1), (21, 45, 99, 153, 207, 261, 315))
_SSD512 = ssd_maps(
    512, (64, 32, 16, 8, 4, 2, 1), (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
)
_RULE = SuppressionRule(score_threshold=0.01, overlap_threshold=0.45, total=200, per_class=200)
"""examples/ssd/ssd_coco.py: confidence_threshold, nms_threshold and keep_top_k."""


def build_ssd300(*, seed: int, classes: int = COCO_CLASSES) -> Detector:
    """Return SSD300, (N,3,300,300) -> detections (N,200,6), of 8732 anchors; `classes` with the background."""

    def make() -> nn.Module:
        extra = [
            _smaller(1024, 512, stride=2),
            _smaller(512, 256, stride=2),
            _smaller(256, 256, padding=0),
            _smaller(256, 256, padding=0),
        ]
        return Ssd(extra, [512, 1024, 512, 256, 256, 256], _shapes(_SSD300), classes)

    return Detector(seeded(make, seed), SsdDecoder(_SSD300, scoring=Scoring.SOFTMAX), _RULE)


def build_ssd512(*, seed: int, classes: int = COCO_CLASSES) -> Detector:
    """Return SSD512, (N,3,512,512) -> detections (N,200,6), of 24564 anchors; `classes` with the background."""

    def make() -> nn.Module:
        extra = [
            _smaller(1024, 512, stride=2),
            *(_smaller(width, 256, stride=2) for width in (512, 256, 256)),
            _smaller(256, 256, kernel=4),
        ]
        widths = [512, 1024, 512, 256, 256, 256, 256]
        return Ssd(extra, widths, _shapes(_SSD512), classes)

    return Detector(seeded(make, seed), SsdDecoder(_SSD512, scoring=Scoring.SOFTMAX), _RULE)


def _shapes(maps: Sequence[AnchorMap]) -> list[int]:
    return [len(one.shapes) for one in maps]


def _vgg_to_conv4() -> nn.Module:
    network = nn.Sequential()
    channels = 3
    for stage, (layers, width) in enumerate(_VGG):
        if stage:
            network.append(nn.MaxPool2d(2, ceil_mode=True))
        for _ in range(layers):
            network.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
            channels = width
    return network


def _vgg_to_fc7() -> nn.Module:
    """Return conv5 and the dense layers as convolutions, the first of them dilated by 6."""
    network = nn.Sequential(nn.MaxPool2d(2))
    for _ in range(3):
        network.extend([nn.Conv2d(512, 512, 3, padding=1), nn.ReLU()])
    return network.extend(
        [
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
        ]
    )


def _smaller(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Module:
    middle = out_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, middle, 1),
        nn.ReLU(),
        nn.Conv2d(middle, out_channels, kernel, stride=stride, padding=padding),
        nn.ReLU(),
    )
