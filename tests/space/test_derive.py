"""Spaces around networks: the network is in them, its neighbours too, and nothing else moves."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tests.space.test_architecture import random_architecture
from tvm_mnas.errors import SpaceError
from tvm_mnas.models.zoo.registry import ZOO
from tvm_mnas.space.architecture import Architecture, ConvOp
from tvm_mnas.space.derive import EXPANSIONS, derive_space
from tvm_mnas.space.files import parse_space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.workflows.model_ref import resolve_architecture

KEYS = [entry.key for entry in ZOO if entry.architecture is not None]


def _around(architecture: Architecture, model: str = "it") -> SearchSpace:
    return parse_space(derive_space(architecture, model), Path("around.toml"))


@pytest.mark.parametrize("model", [*KEYS, "mnasnet-b1@0.5,96", "mobilenet-v2@1.4"])
def test_a_network_of_the_zoo_is_in_the_space_around_it(model: str) -> None:
    architecture = resolve_architecture(model)
    space = _around(architecture, model)
    assert space.decode(space.encode(architecture)) == architecture
    assert len(space.blocks) == len(architecture.blocks)


def test_the_size_around_mnasnet_b1_is_the_product_by_hand() -> None:
    # Operations * kernels * filters * layers. The first block is separable, with nothing below it, and it and the
    # last have one layer; 16 and 24 have two filters, as three quarters of them round back to 16 and to 24.
    first, second, last, others = 2 * 2 * 2 * 2, 3 * 2 * 2 * 3, 3 * 2 * 3 * 2, 3 * 2 * 3 * 3
    assert _around(resolve_architecture("mnasnet-b1")).size == first * second * others**4 * last


def test_any_network_is_in_the_space_around_it_and_its_networks_read_back() -> None:
    rng = random.Random(4)
    for _ in range(200):
        architecture = random_architecture(rng)
        space = _around(architecture)
        assert space.decode(space.encode(architecture)) == architecture
        other = space.decode(space.sample(rng))
        assert space.encode(Architecture.parse(other.notation)) == space.encode(other)
        for mine, its in zip(architecture.blocks, other.blocks, strict=True):
            kept = ("stride", "skip_op", "se_ratio")
            assert [getattr(mine, name) for name in kept] == [getattr(its, name) for name in kept]
            assert abs(mine.layers - its.layers) <= 1
            assert (mine.conv_op is ConvOp.CONV) == (its.conv_op is ConvOp.CONV)


def test_the_values_are_those_next_to_the_blocks_own() -> None:
    text = "i64_c1_w0.75:stem16_s11:r1_k3_s22_e1_o16_noskip:r3_k7_s22_e5_o80_se0.25_max:r2_k1_s11_conv_o13:head99:n7"
    first, second, third = _around(Architecture.parse(text)).blocks
    assert first.operations == ("sepconv", "mbconv2")
    assert (first.kernel_sizes, first.filters, first.layers) == ((3, 5), (16, 24), (1, 2))
    assert second.operations == ("mbconv4", "mbconv5", "mbconv6")
    assert (second.kernel_sizes, second.filters, second.layers) == (
        (5, 7),
        (64, 80, 104),
        (2, 3, 4),
    )
    assert (second.skip_ops, second.se_ratios) == (("max_pool",), (0.25,))
    assert third.operations == ("conv",)
    # Thirteen filters are no multiple of eight, and stay what the network has.
    assert (third.kernel_sizes, third.filters, third.layers) == ((1, 3), (16, 13), (1, 2, 3))


def test_the_header_has_the_network_and_the_size_by_hand() -> None:
    architecture = resolve_architecture("mnasnet-a1")
    text = derive_space(architecture, "mnasnet-a1")
    header = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    assert header[0].startswith("Around mnasnet-a1:")
    assert Architecture.parse(header[1]) == architecture
    product, _, total = header[-1].partition(" = ")
    size = parse_space(text, Path("around.toml")).size
    assert math.prod(int(factor) for factor in product.split("*")) == size
    assert int(total.replace(",", "")) == size


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mnasnet-b1", "around-mnasnet-b1"),
        ("mnasnet-b1@0.75,192", "around-mnasnet-b1-0.75-192"),
        ("runs/a b:3", "around-runs-a-b-3"),
        ('"\n[input]\x00', "around-input"),
        ("é" * 9, "around-{id}"),
        ("i" * 99, "around-{id}"),
    ],
)
def test_a_name_is_a_word_whatever_the_network_is_called(model: str, name: str) -> None:
    architecture = resolve_architecture("mnasnet-b1")
    space = _around(architecture, model)
    assert space.name == name.format(id=architecture.id)
    assert space.fingerprint == _around(architecture, "it").fingerprint


def test_an_expansion_beyond_those_of_spaces_is_refused() -> None:
    text = "i32_c3_w1:stem16_s22:r1_k3_s11_e1_o16:r1_k3_s22_e12_o24:head64:n10"
    with pytest.raises(
        SpaceError, match=f"up to {EXPANSIONS[-1]}, and block 2 .* has 12"
    ) as caught:
        derive_space(Architecture.parse(text), "it")
    assert "\n" not in str(caught.value)
