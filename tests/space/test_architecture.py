"""An architecture's notation, identity, rules and resolved layers."""

from __future__ import annotations

import random

import pytest

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import (
    Architecture,
    Block,
    ConvOp,
    Layer,
    SkipOp,
    round_filters,
    scale_filters,
)

B1 = (
    "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r3_k3_s22_e3_i16_o24:r3_k5_s22_e3_i24_o40"
    ":r3_k5_s22_e6_i40_o80:r2_k3_s11_e6_i80_o96:r4_k5_s22_e6_i96_o192"
    ":r1_k3_s11_e6_i192_o320_noskip:head1280:n1000"
)


def random_architecture(rng: random.Random) -> Architecture:
    blocks = []
    for _ in range(rng.randint(1, 7)):
        conv_op = rng.choice(list(ConvOp))
        blocks.append(
            Block(
                conv_op=conv_op,
                kernel_size=rng.choice((1, 3, 5, 7)),
                stride=rng.choice((1, 2)),
                filters=rng.randint(1, 400),
                layers=rng.randint(1, 5),
                expansion=rng.randint(2, 10) if conv_op is ConvOp.MBCONV else 1,
                se_ratio=rng.choice((0.0, 0.25, 1.0, 1 / 3)),
                skip_op=rng.choice(list(SkipOp)),
            )
        )
    return Architecture(
        blocks=tuple(blocks),
        input_size=rng.randint(16, 320),
        input_channels=rng.randint(1, 4),
        stem_filters=rng.randint(1, 64),
        stem_stride=rng.choice((1, 2)),
        head_filters=rng.randint(1, 2000),
        classes=rng.randint(1, 1000),
        depth_multiplier=rng.choice((0.35, 0.5, 1.0, 1.4)),
    )


def test_notation_is_canonical_for_the_published_network() -> None:
    assert Architecture.parse(B1).notation == B1


def test_every_notation_reads_back_to_the_same_layers_and_text() -> None:
    rng = random.Random(0)
    for _ in range(300):
        architecture = random_architecture(rng)
        again = Architecture.parse(architecture.notation)
        assert again.notation == architecture.notation
        assert again.layers == architecture.layers
        assert again.id == architecture.id


def test_layers_follow_the_paper_stride_and_skip_only_where_they_apply() -> None:
    layers = Architecture.parse(B1).layers
    assert len(layers) == 17
    assert layers[1] == Layer(
        conv_op=ConvOp.MBCONV,
        kernel_size=3,
        stride=2,
        in_channels=16,
        expanded_channels=48,
        out_channels=24,
        se_channels=0,
        skip_op=SkipOp.NONE,
        input_size=112,
    )
    assert [layer.stride for layer in layers[1:4]] == [2, 1, 1]
    assert [layer.skip_op for layer in layers[1:4]] == [
        SkipOp.NONE,
        SkipOp.IDENTITY,
        SkipOp.IDENTITY,
    ]
    assert layers[-1].output_size == 7


def test_a_pooling_skip_survives_a_stride_but_not_a_change_of_channels() -> None:
    block = Block(ConvOp.SEPCONV, 3, 2, filters=32, layers=2, skip_op=SkipOp.MAX_POOL)
    same = Architecture(blocks=(block,)).layers
    assert [layer.skip_op for layer in same] == [SkipOp.MAX_POOL, SkipOp.MAX_POOL]
    wider = Architecture(blocks=(block,), stem_filters=16).layers
    assert [layer.skip_op for layer in wider] == [SkipOp.NONE, SkipOp.MAX_POOL]


def test_id_is_stable_and_shared_by_notations_of_one_network() -> None:
    # A golden value: ids are stored in runs, so a change of it is a change of format.
    assert Architecture.parse(B1).id == "8361609849cb"
    one_layer = "i32_c3_w1:stem16_s22:r1_k3_s22_e1_o24{}:head64:n10"
    ids = {Architecture.parse(one_layer.format(skip)).id for skip in ("", "_noskip", "_max")}
    assert len(ids) == 1
    assert Architecture.parse(one_layer.format("").replace("k3", "k5")).id not in ids


@pytest.mark.parametrize(
    ("filters", "multiplier", "expected"),
    [(32, 0.35, 16), (16, 0.35, 8), (24, 0.5, 16), (320, 1.4, 448), (96, 0.75, 72), (13, 1.0, 13)],
)
def test_filters_scale_by_the_published_rule(
    filters: int, multiplier: float, expected: int
) -> None:
    assert scale_filters(filters, multiplier) == expected


def test_rounding_never_loses_more_than_a_tenth() -> None:
    for filters in range(1, 2000):
        rounded = round_filters(filters)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * filters


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"kernel_size": 4}, "kernel size"),
        ({"stride": 3}, "stride"),
        ({"filters": 0}, "filter"),
        ({"layers": 0}, "layer"),
        ({"expansion": 6}, "expansion"),
        ({"se_ratio": 1.5}, "squeeze-and-excitation"),
    ],
)
def test_an_illegal_block_cannot_be_built(change: dict[str, float], rule: str) -> None:
    fields = {"conv_op": ConvOp.SEPCONV, "kernel_size": 3, "stride": 1, "filters": 8, "layers": 1}
    with pytest.raises(SpaceError, match=rule):
        Block(**{**fields, **change})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "INPUT:STEM"),
        (B1.replace("i224", "x224"), "x224_c3_w1"),
        (B1.replace("s22:r1", "s23:r1"), "stem32_s23"),
        (B1.replace("_e3_", "_e_"), "r3_k3_s22_e_i16_o24"),
        (B1.replace("_i24_", "_i25_"), "24, not 25"),
        (B1.replace("head", "tail"), "tail1280"),
        (B1.replace("_w1:", "_w0:"), "depth multiplier"),
    ],
)
def test_a_wrong_notation_gets_one_line_that_names_the_part(text: str, part: str) -> None:
    with pytest.raises(SpaceError, match=part) as caught:
        Architecture.parse(text)
    assert "\n" not in str(caught.value)
