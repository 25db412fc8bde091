"""SSDLite (Sandler et al. 2018, section 6.2): SSD whose extra layers and predictors are depthwise separable.

As in TensorFlow's object detection API (github.com/tensorflow/models, research/object_detection,
ssdlite_mobilenet_v2_coco.config): two maps of the backbone and four smaller ones; three anchors a pixel of the first
and six of the others; scores by sigmoid. An image of less than 320 pixels has fewer maps: the last has one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tvm_mnas.models.detection.anchors import ssdlite_maps
from tvm_mnas.models.detection.decoding import Scoring, SsdDecoder
from tvm_mnas.models.detection.detector import Detector
from tvm_mnas.models.detection.suppression import SuppressionRule
from tvm_mnas.models.network import LayerModule, Network, build_network
from tvm_mnas.models.zoo.building import conv_norm_relu, seeded
from tvm_mnas.models.zoo.heads import BOX, AnchorHeads
from tvm_mnas.models.zoo.mobilenet_v1 import build_mobilenet_v1
from tvm_mnas.space.architecture import Architecture, ConvOp
from tvm_mnas.space.detector import last_strided

COCO_CLASSES = 81
"""Those of COCO, and the background."""
_EXTRA = (512, 256, 256, 128)
_FINEST_ANCHORS, _ANCHORS = 3, 6
_FINE_STAGES = 23
"""Modules of MobileNetV1 up to its eleventh separable convolution, the last of stride 16."""
_PRIOR = 0.01
"""The score of an object that predictors begin with (Lin et al. 2017, section 4.1): nearly all anchors have none."""
RULE = SuppressionRule(overlap_threshold=0.6, per_class=100, total=100)
"""As in that configuration, whose score threshold of 1e-8 lets everything in."""


class SsdLite(nn.Module):
    """The maps of a backbone, smaller ones, and what is predicted from them.

    (N,3,S,S) -> offsets (N,A,4), logits (N,A,classes). `channels` are those of the backbone's two maps, `sizes` the
    pixels of all maps.
    """

    def __init__(
        self, backbone: nn.Module, channels: tuple[int, int], sizes: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        widths = [*channels]
        extra = []
        for out_channels in _EXTRA[: len(sizes) - len(channels)]:
            extra.append(_smaller(widths[-1], out_channels))
            widths.append(out_channels)
        self.extra = nn.ModuleList(extra)
        anchors = [_FINEST_ANCHORS, *(_ANCHORS for _ in sizes[1:])]
        pairs = list(zip(widths, anchors, strict=True))
        self.heads = AnchorHeads(
            [_predictor(width, count * BOX) for width, count in pairs],
            [_predictor(width, count * classes) for width, count in pairs],
            classes,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw predictions for `images`."""
        maps = [*self.backbone(images)]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        predictions: tuple[Tensor, Tensor] = self.heads(maps)
        return predictions


class TwoMaps(nn.Module):
    """Two parts of a network, one behind the other: (N,3,S,S) -> what each returns."""

    def __init__(self, fine: nn.Module, coarse: nn.Module) -> None:
        super().__init__()
        self.fine = fine
        self.coarse = coarse

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps."""
        fine = self.fine(images)
        return fine, self.coarse(fine)


class Backbone(nn.Module):
    """A network without its classifier, under the names of its weights: (N,C,S,S) -> a fine map and the last.

    The fine one is what the last layer with a stride of 2 begins with: its expansion, or its input where it has none.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stem = network.stem
        self.layers = network.layers
        self.head = network.head
        self.cut = last_strided(network.architecture)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps."""
        features = self.stem(images)
        fine = features
        for index, layer in enumerate(self.layers):
            if index != self.cut:
                features = layer(features)
                continue
            assert isinstance(layer, LayerModule)
            parts = dict(layer.body.named_children())
            entering, fine = features, features
            if "expand" in parts:
                fine = parts.pop("expand")(features)
            features = fine
            for part in parts.values():
                features = part(features)
            if layer.skip is not None:
                features = features + layer.skip(entering)
        return fine, self.head(features)


def map_sizes(architecture: Architecture) -> tuple[int, ...]:
    """Return the pixels along a side of each map of SSDLite on `architecture`, the finest first.

    Raises:
        SpaceError: if none of its layers has a stride of 2.
    """
    layers = architecture.layers
    sizes = [layers[last_strided(architecture)].input_size, layers[-1].output_size]
    while sizes[-1] > 1 and len(sizes) < 2 + len(_EXTRA):
        sizes.append(-(-sizes[-1] // 2))
    return tuple(sizes)


def build_ssdlite_v1(*, seed: int, classes: int = COCO_CLASSES) -> Detector:
    """Return MobileNetV1 + SSDLite at 320: maps of its eleventh and thirteenth separable convolution."""
    sizes = (20, 10, 5, 3, 2, 1)

    def make() -> nn.Module:
        stages = list(build_mobilenet_v1(seed=seed).children())[:-1]
        fine, coarse = stages[:_FINE_STAGES], stages[_FINE_STAGES:]
        backbone = TwoMaps(nn.Sequential(*fine), nn.Sequential(*coarse))
        return SsdLite(backbone, (512, 1024), sizes, classes)

    return _detector(seeded(make, seed), sizes)


def build_ssdlite(
    architecture: Architecture,
    *,
    seed: int,
    classes: int = COCO_CLASSES,
    batch_norm_momentum: float = 0.01,
    zero_init_residual: bool = False,
) -> Detector:
    """Return `architecture` + SSDLite, which tells `classes` apart, the background among them.

    Its maps are the expansion before the depthwise convolution that goes to stride 32, and the last 1x1 convolution.

    Raises:
        SpaceError: if none of its layers has a stride of 2.
    """
    sizes = map_sizes(architecture)
    layer = architecture.layers[last_strided(architecture)]
    width = layer.expanded_channels if layer.conv_op is ConvOp.MBCONV else layer.in_channels
    backbone = build_network(
        architecture,
        seed=seed,
        batch_norm_momentum=batch_norm_momentum,
        zero_init_residual=zero_init_residual,
    )

    def make() -> nn.Module:
        return SsdLite(nn.Identity(), (width, architecture.head_filters), sizes, classes)

    network = seeded(make, seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = batch_norm_momentum
    assert isinstance(network, SsdLite)
    network.backbone = Backbone(backbone)
    return _detector(network, sizes)


def _detector(network: nn.Module, sizes: Sequence[int]) -> Detector:
    assert isinstance(network, SsdLite)
    for logits in network.heads.logits:
        assert isinstance(logits, nn.Sequential)
        last = logits[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        with torch.no_grad():
            last.bias.fill_(-math.log((1 - _PRIOR) / _PRIOR))
    return Detector(network, SsdDecoder(ssdlite_maps(sizes), scoring=Scoring.SIGMOID), RULE)


def _smaller(in_channels: int, out_channels: int) -> nn.Module:
    """Return a layer that halves the size: 1x1, depthwise 3x3 with stride 2, 1x1."""
    middle = out_channels // 2
    return nn.Sequential(
        conv_norm_relu(in_channels, middle),
        conv_norm_relu(middle, middle, 3, stride=2, groups=middle),
        conv_norm_relu(middle, out_channels),
    )


def _predictor(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        conv_norm_relu(channels, channels, 3, groups=channels), nn.Conv2d(channels, outputs, 1)
    )
