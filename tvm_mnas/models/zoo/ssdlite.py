"""SSDLite (Sandler et al. 2018, section 6.2): SSD whose extra layers and predictors are depthwise separable.

As in TensorFlow's object detection API (github.com/tensorflow/models, research/object_detection,
ssdlite_mobilenet_v2_coco.config): the last map of stride 16, that of stride 32 and four smaller ones; three anchors a
pixel of the first and six of the others.
"""

from __future__ import annotations

from torch import Tensor, nn

from tvm_mnas.models.network import LayerModule, Network, build_network
from tvm_mnas.models.zoo.building import conv_norm_relu, seeded
from tvm_mnas.models.zoo.heads import BOX, AnchorHeads
from tvm_mnas.models.zoo.mobilenet_v1 import build_mobilenet_v1
from tvm_mnas.space.architecture import Architecture

COCO_CLASSES = 81
"""Those of COCO, and the background."""
_EXTRA = (512, 256, 256, 128)
_ANCHORS = (3, 6, 6, 6, 6, 6)
_TAP_STRIDE = 32
_FINE_STAGES = 23
"""Modules of MobileNetV1 up to its eleventh separable convolution, the last of stride 16."""


class SsdLite(nn.Module):
    """Two maps of a backbone, four more, and what is predicted from them: (N,3,S,S) -> (N,anchors,4+classes)."""

    def __init__(
        self, fine: nn.Module, coarse: nn.Module, channels: tuple[int, int], classes: int
    ) -> None:
        super().__init__()
        self.fine = fine
        self.coarse = coarse
        widths = [*channels]
        extra = []
        for out_channels in _EXTRA:
            extra.append(_smaller(widths[-1], out_channels))
            widths.append(out_channels)
        self.extra = nn.ModuleList(extra)
        pairs = list(zip(widths, _ANCHORS, strict=True))
        self.heads = AnchorHeads(
            [_predictor(width, anchors * BOX) for width, anchors in pairs],
            [_predictor(width, anchors * classes) for width, anchors in pairs],
            classes,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw predictions for `images`."""
        maps = [self.fine(images)]
        maps.append(self.coarse(maps[0]))
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        predictions: Tensor = self.heads(maps)
        return predictions


def build_ssdlite_v1(*, seed: int, classes: int = COCO_CLASSES) -> nn.Module:
    """Return MobileNetV1 + SSDLite: maps of its eleventh and thirteenth separable convolution."""

    def make() -> nn.Module:
        stages = list(build_mobilenet_v1(seed=seed).children())[:-1]
        fine, coarse = stages[:_FINE_STAGES], stages[_FINE_STAGES:]
        return SsdLite(nn.Sequential(*fine), nn.Sequential(*coarse), (512, 1024), classes)

    return seeded(make, seed)


def build_ssdlite(
    architecture: Architecture, *, seed: int, classes: int = COCO_CLASSES
) -> nn.Module:
    """Return `architecture` + SSDLite.

    Its maps are the expansion before the depthwise convolution that goes to stride 32, and the last 1x1 convolution.
    """

    def make() -> nn.Module:
        network = build_network(architecture, seed=seed)
        fine, coarse, width = _cut(network)
        return SsdLite(fine, coarse, (width, architecture.head_filters), classes)

    return seeded(make, seed)


def _cut(network: Network) -> tuple[nn.Module, nn.Module, int]:
    """Return the network up to that expansion, the rest up to its head, and the expansion's channels."""
    architecture = network.architecture
    index = next(
        index
        for index, layer in enumerate(architecture.layers)
        if architecture.input_size // layer.output_size >= _TAP_STRIDE
    )
    module = network.layers[index]
    assert isinstance(module, LayerModule)
    expand, *rest = module.body.children()
    fine = nn.Sequential(network.stem, *list(network.layers)[:index], expand)
    coarse = nn.Sequential(*rest, *list(network.layers)[index + 1 :], network.head)
    return fine, coarse, architecture.layers[index].expanded_channels


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
