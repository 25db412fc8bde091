"""The networks of the zoo that are sequences of blocks: MobileNetV2 and every MnasNet, as one-line notations.

Notations build plain ReLU everywhere, where MobileNetV2 clips at six; that changes no count.
"""

from __future__ import annotations

from tvm_mnas.models.zoo.entry import KERAS, SLIM, Published, ZooEntry

_MNASNET = "github.com/tensorflow/tpu, models/official/mnasnet"

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

MNASNETS = (
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

MOBILENETS = (
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
        counted_by=KERAS,
        deviation=f"ReLU for ReLU6; 3.50M with batch norms, 3.47M without ({SLIM}): Table 1 prints 3.4M",
        widens_head=True,
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
        counted_by=KERAS,
        deviation=f"ReLU for ReLU6; Table 1 prints 6.9M as that paper does, its authors' code has 6.06M ({SLIM})",
    ),
)
