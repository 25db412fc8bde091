"""Every network of the zoo: the rows of Table 1, and the MnasNets whose structure the authors released.

Modules are imported when one is built, so that the notations need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm_mnas.errors import ConfigError
from tvm_mnas.models.zoo.detectors import DETECTORS
from tvm_mnas.models.zoo.entry import KERAS, SLIM, Published, ZooEntry
from tvm_mnas.models.zoo.notations import MNASNETS, MOBILENETS

if TYPE_CHECKING:
    from torch import nn


def _mobilenet_v1(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.mobilenet_v1 import build_mobilenet_v1

    return build_mobilenet_v1(seed=seed)


def _squeezenext(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.squeezenext import build_squeezenext

    return build_squeezenext(seed=seed)


def _shufflenet_15(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.shufflenet import build_shufflenet

    return build_shufflenet(stem=24, channels=360, groups=3, seed=seed)


def _shufflenet_2(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.shufflenet import build_shufflenet

    return build_shufflenet(stem=48, channels=480, groups=3, seed=seed)


def _condensenet(groups: int) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        from tvm_mnas.models.zoo.condensenet import build_condensenet

        return build_condensenet(groups=groups, seed=seed)

    return build


def _nasnet_a(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.nas_cells import build_nasnet_a

    return build_nasnet_a(seed=seed)


def _amoebanet_a(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.nas_cells import build_amoebanet_a

    return build_amoebanet_a(seed=seed)


def _pnasnet(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.nas_cells import build_pnasnet

    return build_pnasnet(seed=seed)


def _darts_v1(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.nas_cells import build_darts_v1

    return build_darts_v1(seed=seed)


def _darts_v2(seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.nas_cells import build_darts_v2

    return build_darts_v2(seed=seed)


_EXCHANGED = "Table 1 exchanges the counts and accuracies of G=C=4 and G=C=8: that paper and its authors' code have "

_MANUAL = (
    ZooEntry(
        key="mobilenet-v1",
        name="MobileNetV1",
        builder=_mobilenet_v1,
        published=Published(
            parameters=4_200_000,
            mult_adds=575_000_000,
            top1_percent=70.6,
            top5_percent=89.5,
            pixel_latency_ms=113,
        ),
        author_parameters=4_231_976,
        counted_by=KERAS,
        deviation="ReLU for the code's ReLU6",
    ),
    ZooEntry(
        key="squeezenext",
        name="SqueezeNext (2.0-SqNxt-23v5)",
        builder=_squeezenext,
        published=Published(
            parameters=3_200_000,
            mult_adds=708_000_000,
            top1_percent=67.5,
            top5_percent=88.2,
        ),
        author_parameters=3_223_912,
        counted_by="github.com/amirgholami/SqueezeNext, 2.0-SqNxt-23v5",
        deviation="takes 227x227, as its authors' files do",
        input_size=227,
    ),
    ZooEntry(
        key="shufflenet-1.5x",
        name="ShuffleNet 1.5x (g=3)",
        builder=_shufflenet_15,
        published=Published(parameters=3_400_000, mult_adds=292_000_000, top1_percent=71.5),
        deviation="as in github.com/megvii-model/ShuffleNet-Series, whose dense layer has no bias",
    ),
    ZooEntry(
        key="shufflenet-2x",
        name="ShuffleNet 2x (g=3)",
        builder=_shufflenet_2,
        published=Published(parameters=5_400_000, mult_adds=524_000_000, top1_percent=73.7),
        deviation="as in github.com/megvii-model/ShuffleNet-Series, whose dense layer has no bias",
    ),
    ZooEntry(
        key="condensenet-g4",
        name="CondenseNet-74 (G=C=4)",
        builder=_condensenet(4),
        published=Published(
            parameters=2_900_000,
            mult_adds=274_000_000,
            top1_percent=71.0,
            top5_percent=90.0,
        ),
        author_parameters=4_773_944,
        counted_by="github.com/ShichenLiu/CondenseNet, converted",
        deviation=f"{_EXCHANGED}4.8M and 529M here, 12.7M of them for ReLU and pooling",
    ),
    ZooEntry(
        key="condensenet-g8",
        name="CondenseNet-74 (G=C=8)",
        builder=_condensenet(8),
        published=Published(
            parameters=4_800_000,
            mult_adds=529_000_000,
            top1_percent=73.8,
            top5_percent=91.7,
        ),
        author_parameters=2_935_416,
        counted_by="github.com/ShichenLiu/CondenseNet, converted",
        deviation=f"{_EXCHANGED}2.9M and 274M here, 12.7M of them for ReLU and pooling",
    ),
)

_SEARCHED = (
    ZooEntry(
        key="nasnet-a-mobile",
        name="NASNet-A (4 @ 1056)",
        builder=_nasnet_a,
        published=Published(
            parameters=5_300_000,
            mult_adds=564_000_000,
            top1_percent=74.0,
            top5_percent=91.3,
            pixel_latency_ms=183,
        ),
        author_parameters=5_289_978,
        counted_by=KERAS,
        deviation="symmetric padding for TensorFlow's",
    ),
    ZooEntry(
        key="amoebanet-a-mobile",
        name="AmoebaNet-A (N=4, F=50)",
        builder=_amoebanet_a,
        published=Published(
            parameters=5_100_000,
            mult_adds=555_000_000,
            top1_percent=74.5,
            top5_percent=92.0,
            pixel_latency_ms=190,
        ),
        deviation="cells of github.com/tensorflow/tpu, models/official/amoeba_net; symmetric padding",
    ),
    ZooEntry(
        key="pnasnet-mobile",
        name="PNASNet-5 (N=3, F=54)",
        builder=_pnasnet,
        published=Published(
            parameters=5_100_000,
            mult_adds=588_000_000,
            top1_percent=74.2,
            top5_percent=91.9,
        ),
        deviation=f"cells of {SLIM}; symmetric padding for TensorFlow's",
    ),
    ZooEntry(
        key="darts-imagenet",
        name="DARTS (June 2018)",
        builder=_darts_v1,
        published=Published(
            parameters=4_900_000,
            mult_adds=595_000_000,
            top1_percent=73.1,
            top5_percent=91,
        ),
        deviation=(
            "cells and 50 channels of github.com/quark0/darts, 8876e79; how 595M was counted is not public, and its "
            "issue 46 finds the same gap"
        ),
    ),
)

_LATER = (
    ZooEntry(
        key="darts-imagenet-v2",
        name="DARTS (October 2018)",
        builder=_darts_v2,
        author_parameters=4_718_752,
        counted_by="github.com/quark0/darts, README (4.719M), and pytorchcv",
        deviation="not in v1 of the paper; the cells that DARTS is known by since",
    ),
)

ZOO: tuple[ZooEntry, ...] = (*_MANUAL, *MOBILENETS, *_SEARCHED, *MNASNETS, *_LATER)
"""In the order of Table 1, the networks that it does not have last."""

_BY_KEY = {entry.key: entry for entry in (*ZOO, *DETECTORS)}


def zoo_entry(key: str) -> ZooEntry:
    """Return the network of that key.

    Raises:
        ConfigError: if there is none; it lists the keys.
    """
    entry = _BY_KEY.get(key)
    if entry is None:
        raise ConfigError(
            f"{key!r} is no network of the zoo, which has {', '.join(_BY_KEY)}; "
            f"`tvm-mnas zoo` describes them. Or give a notation: `tvm-mnas space show quickstart --sample 1` prints one"
        )
    return entry
