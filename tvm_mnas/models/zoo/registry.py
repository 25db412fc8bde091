"""Every network of the zoo: the rows of Table 1 and the MnasNets whose structure the authors released.

Notations build plain ReLU everywhere, where both MobileNets clip at six; that changes no count. Modules are imported
when one is built, so that the table's notations need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm_mnas.errors import ConfigError
from tvm_mnas.models.zoo.entry import Published, ZooEntry

if TYPE_CHECKING:
    from torch import nn

_SLIM = "github.com/tensorflow/models, research/slim"
_MNASNET = "github.com/tensorflow/tpu, models/official/mnasnet"
_KERAS = "keras.applications"


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


_B1 = (
    "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r3_k3_s22_e3_i16_o24{se}:r3_k5_s22_e3_i24_o40{se}:"
    "r3_k5_s22_e6_i40_o80{se}:r2_k3_s11_e6_i80_o96{se}:r4_k5_s22_e6_i96_o192{se}:"
    "r1_k3_s11_e6_i192_o320{se}_noskip:head1280:n1000"
)
_65 = _B1.replace("_e6_i96_o192", "_e3_i96_o192")
_92 = _B1.replace("_e3_i16_o24", "_e6_i16_o24").replace("_e3_i24_o40", "_e6_i24_o40")
_A1 = (
    "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r2_k3_s22_e6_i16_o24:"
    "r3_k5_s22_e3_i24_o40_se0.25:r4_k3_s22_e6_i40_o80:r2_k3_s11_e6_i80_o112_se0.25:"
    "r3_k5_s22_e6_i112_o160_se0.25:r1_k3_s11_e6_i160_o320:head1280:n1000"
)
_SMALL = (
    "i224_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:r1_k3_s22_e3_i8_o16:r2_k3_s22_e6_i16_o16:"
    "r4_k5_s22_e6_i16_o32_se0.25:r3_k3_s11_e6_i32_o32_se0.25:r3_k5_s22_e6_i32_o88_se0.25:"
    "r1_k3_s11_e6_i88_o144:head1280:n1000"
)
_MOBILENET_V2 = (
    "i224_c3_w{width}:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r2_k3_s22_e6_i16_o24:r3_k3_s22_e6_i24_o32:"
    "r4_k3_s22_e6_i32_o64:r3_k3_s11_e6_i64_o96:r3_k3_s22_e6_i96_o160:"
    "r1_k3_s11_e6_i160_o320_noskip:head{head}:n1000"
)
_WITH_SE = "_se0.25"

_FIGURE_7 = "Figure 7 counted, which the authors' released B1 equals; Table 1 prints 4.2M"
_NOT_PUBLIC = (
    "the structure is not public: nearest to Table 1's counts within three changes of Figure 7's layers, kernels and "
    "expansions, "
)
_SE = "squeezes of ratio 0.25 in every inverted bottleneck"
_SE_NOT_PUBLIC = f"where the squeezes sit is not public: {_SE}"

_MNASNETS = (
    ZooEntry(
        key="mnasnet",
        name="MnasNet (Figure 7)",
        notation=_B1.format(se=""),
        published=Published(
            parameters=4_200_000,
            mult_adds=317_000_000,
            top1_percent=74.0,
            top5_percent=91.78,
            pixel_latency_ms=76,
        ),
        author_parameters=4_383_312,
        counted_by=_MNASNET,
        deviation=_FIGURE_7,
    ),
    ZooEntry(
        key="mnasnet-65",
        name="MnasNet-65, nearest",
        notation=_65.format(se=""),
        published=Published(
            parameters=3_600_000,
            mult_adds=270_000_000,
            top1_percent=73.02,
            top5_percent=91.14,
            pixel_latency_ms=65,
        ),
        deviation=f"{_NOT_PUBLIC}Figure 7 with expansion 3 in the blocks of 192",
    ),
    ZooEntry(
        key="mnasnet-92",
        name="MnasNet-92, nearest",
        notation=_92.format(se=""),
        published=Published(
            parameters=4_400_000,
            mult_adds=388_000_000,
            top1_percent=74.79,
            top5_percent=92.05,
            pixel_latency_ms=92,
        ),
        deviation=f"{_NOT_PUBLIC}Figure 7 with expansion 6 in the blocks of 24 and 40",
    ),
    ZooEntry(
        key="mnasnet-se",
        name="MnasNet (+SE)",
        notation=_B1.format(se=_WITH_SE),
        published=Published(
            parameters=4_700_000,
            mult_adds=319_000_000,
            top1_percent=75.42,
            top5_percent=92.51,
            pixel_latency_ms=90,
        ),
        deviation=f"{_SE_NOT_PUBLIC}; without them it counts 4.38M already",
    ),
    ZooEntry(
        key="mnasnet-65-se",
        name="MnasNet-65 (+SE), nearest",
        notation=_65.format(se=_WITH_SE),
        published=Published(
            parameters=4_100_000,
            mult_adds=272_000_000,
            top1_percent=74.62,
            top5_percent=91.93,
            pixel_latency_ms=75,
        ),
        deviation=f"the structure is not public: the nearest without SE, and {_SE}",
    ),
    ZooEntry(
        key="mnasnet-92-se",
        name="MnasNet-92 (+SE), nearest",
        notation=_92.format(se=_WITH_SE),
        published=Published(
            parameters=5_100_000,
            mult_adds=391_000_000,
            top1_percent=76.13,
            top5_percent=92.85,
            pixel_latency_ms=107,
        ),
        deviation=f"the structure is not public: the nearest without SE, and {_SE}",
    ),
    ZooEntry(
        key="mnasnet-a1",
        name="MnasNet-A1",
        notation=_A1,
        author_parameters=3_887_038,
        counted_by=_MNASNET,
        deviation="not in v1 of the paper; as the authors released it",
    ),
    ZooEntry(
        key="mnasnet-b1",
        name="MnasNet-B1",
        notation=_B1.format(se=""),
        author_parameters=4_383_312,
        counted_by=_MNASNET,
        deviation="the name under which Figure 7's network was released",
    ),
    ZooEntry(
        key="mnasnet-small",
        name="MnasNet-small",
        notation=_SMALL,
        author_parameters=2_030_264,
        counted_by=_MNASNET,
        deviation="not in v1 of the paper; as the authors released it",
    ),
)

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
        counted_by=_KERAS,
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

_MOBILENETS = (
    ZooEntry(
        key="mobilenet-v2",
        name="MobileNetV2",
        notation=_MOBILENET_V2.format(width="1", head=1280),
        published=Published(
            parameters=3_400_000,
            mult_adds=300_000_000,
            top1_percent=72.0,
            top5_percent=91.0,
            pixel_latency_ms=75,
        ),
        author_parameters=3_504_872,
        counted_by=_KERAS,
        deviation=f"ReLU for ReLU6; 3.50M with batch norms, 3.47M without ({_SLIM}): Table 1 prints 3.4M",
    ),
    ZooEntry(
        key="mobilenet-v2-1.4",
        name="MobileNetV2 (1.4)",
        notation=_MOBILENET_V2.format(width="1.4", head=1792),
        published=Published(
            parameters=6_900_000,
            mult_adds=585_000_000,
            top1_percent=74.7,
            top5_percent=92.5,
            pixel_latency_ms=143,
        ),
        author_parameters=6_108_776,
        counted_by=_KERAS,
        deviation=f"ReLU for ReLU6; Table 1 prints 6.9M as that paper does, its authors' code has 6.06M ({_SLIM})",
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
        counted_by=_KERAS,
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
        deviation=f"cells of {_SLIM}; symmetric padding for TensorFlow's",
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

ZOO: tuple[ZooEntry, ...] = (*_MANUAL, *_MOBILENETS, *_SEARCHED, *_MNASNETS, *_LATER)
"""In the order of Table 1, the networks that it does not have last."""

_BY_KEY = {entry.key: entry for entry in ZOO}


def zoo_entry(key: str) -> ZooEntry:
    """Return the network of that key.

    Raises:
        ConfigError: if there is none; it lists the keys.
    """
    entry = _BY_KEY.get(key)
    if entry is None:
        raise ConfigError(
            f"{key!r} is no network of the zoo, which has {', '.join(_BY_KEY)}; "
            f"`tvm-mnas zoo` describes them"
        )
    return entry
