"""The detectors of Table 2, from an image to the boxes that suppression leaves.

Modules are imported when one is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm_mnas.models.zoo.entry import PublishedDetection, ZooEntry
from tvm_mnas.models.zoo.notations import MNASNETS, MOBILENETS

if TYPE_CHECKING:
    from torch import nn

_SIZE = 320


def _yolo_v2(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.yolo import build_yolo_v2

    return build_yolo_v2(seed=seed)


def _ssd300(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.ssd_vgg import build_ssd300

    return build_ssd300(seed=seed)


def _ssd512(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.ssd_vgg import build_ssd512

    return build_ssd512(seed=seed)


def _ssdlite_v1(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.ssdlite import build_ssdlite_v1

    return build_ssdlite_v1(seed=seed)


def _ssdlite(key: str) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        from tvm_mnas.models.zoo.ssdlite import build_ssdlite

        (entry,) = [entry for entry in (*MOBILENETS, *MNASNETS) if entry.key == key]
        assert entry.architecture is not None
        return build_ssdlite(replace(entry.architecture, input_size=_SIZE), seed=seed)

    return build


_CUT = "how MnasNet was cut for SSDLite is not public: here as MobileNetV2 is, at the expansion that goes to stride 32"

DETECTORS: tuple[ZooEntry, ...] = (
    ZooEntry(
        key="yolo-v2",
        name="YOLOv2",
        builder=_yolo_v2,
        input_size=416,
        published=PublishedDetection(
            parameters=50_700_000, mult_adds=17_500_000_000, map_percent=21.6
        ),
        deviation=(
            "at 416x416, to which its paper (section 2) shrinks images; 448x448 would be 17.1G, and what 17.5G are "
            "counted at is not told"
        ),
    ),
    ZooEntry(
        key="ssd300",
        name="SSD300",
        builder=_ssd300,
        input_size=300,
        published=PublishedDetection(
            parameters=36_100_000, mult_adds=35_200_000_000, map_percent=23.2
        ),
        deviation="Table 2 prints SSD512's parameters here too; 81 classes: with 91 it has 35.6M and 34.9G",
    ),
    ZooEntry(
        key="ssd512",
        name="SSD512",
        builder=_ssd512,
        input_size=512,
        published=PublishedDetection(
            parameters=36_100_000, mult_adds=99_500_000_000, map_percent=26.8
        ),
    ),
    ZooEntry(
        key="mobilenet-v1-ssdlite",
        name="MobileNetV1 + SSDLite",
        builder=_ssdlite_v1,
        input_size=_SIZE,
        published=PublishedDetection(
            parameters=5_100_000,
            mult_adds=1_300_000_000,
            map_percent=22.2,
            pixel_latency_ms=270,
        ),
        deviation="ReLU for the code's ReLU6",
    ),
    ZooEntry(
        key="mobilenet-v2-ssdlite",
        name="MobileNetV2 + SSDLite",
        builder=_ssdlite("mobilenet-v2"),
        input_size=_SIZE,
        published=PublishedDetection(
            parameters=4_300_000,
            mult_adds=800_000_000,
            map_percent=22.1,
            pixel_latency_ms=200,
        ),
        deviation="ReLU for the code's ReLU6",
    ),
    ZooEntry(
        key="mnasnet-ssdlite",
        name="MnasNet + SSDLite",
        builder=_ssdlite("mnasnet"),
        input_size=_SIZE,
        published=PublishedDetection(
            parameters=4_300_000,
            mult_adds=700_000_000,
            map_percent=22.3,
            pixel_latency_ms=190,
        ),
        deviation=_CUT,
    ),
    ZooEntry(
        key="mnasnet-92-ssdlite",
        name="MnasNet-92 + SSDLite, nearest",
        builder=_ssdlite("mnasnet-92"),
        input_size=_SIZE,
        published=PublishedDetection(
            parameters=5_300_000,
            mult_adds=1_000_000_000,
            map_percent=22.9,
            pixel_latency_ms=227,
        ),
        deviation=f"the structure of MnasNet-92 is not public: the zoo's nearest; {_CUT}",
    ),
)
"""In the order of Table 2."""
