"""The space around a network, in which the network itself is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tvm_mnas.commands.space import space
from tvm_mnas.errors import SpaceError
from tvm_mnas.models.zoo.notations import MNASNETS, MOBILENETS
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.around import space_around
from tvm_mnas.space.files import read_space
from tvm_mnas.space.space import SearchSpace

ODD = "i64_c1_w0.5:stem24_s11:r1_k7_s22_conv_o24_max:r2_k1_s22_e4_o40_se0.5_avg:head96:n7"
NOTATIONS = {
    **{
        entry.key: entry.notation
        for entry in (*MNASNETS, *MOBILENETS)
        if entry.notation is not None
    },
    "odd": ODD,
}


def around(notation: str, tmp_path: Path) -> SearchSpace:
    path = tmp_path / "space.toml"
    path.write_text(space_around(Architecture.parse(notation), name="near"))
    return read_space(path)


@pytest.mark.parametrize("key", NOTATIONS)
def test_the_network_is_in_it(key: str, tmp_path: Path) -> None:
    near = around(NOTATIONS[key], tmp_path)
    architecture = Architecture.parse(NOTATIONS[key])
    assert near.decode(near.encode(architecture)) == architecture


def test_others_are_near_it(tmp_path: Path) -> None:
    near = around(NOTATIONS["mnasnet-b1"], tmp_path)
    own = Architecture.parse(NOTATIONS["mnasnet-b1"])
    rng = random.Random(0)
    for _ in range(200):
        other = near.decode(near.sample(rng))
        assert (other.stem_filters, other.head_filters) == (own.stem_filters, own.head_filters)
        for block, mine in zip(other.blocks, own.blocks, strict=True):
            assert (block.stride, block.skip_op, block.se_ratio) == (
                mine.stride,
                mine.skip_op,
                mine.se_ratio,
            )
            assert abs(block.layers - mine.layers) <= 1
            assert 0.66 * mine.filters < block.filters < 1.51 * mine.filters


def test_its_size_is_the_product_by_hand(tmp_path: Path) -> None:
    # Three operations and two kernels in each of seven blocks. Layers: {1, 2} where the network has one, else three.
    # Filters: 16 and 24 leave two, {16, 24} and {24, 32}; the other five three.
    blocks = [2 * 2, 2 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 2]
    size = 1
    for layers_and_filters in blocks:
        size *= 3 * 2 * layers_and_filters
    assert around(NOTATIONS["mnasnet-b1"], tmp_path).size == size


def test_what_a_network_has_of_its_own_stays_a_choice(tmp_path: Path) -> None:
    near = around(ODD, tmp_path)
    assert near.blocks[0].operations == ("conv", "sepconv", "mbconv3", "mbconv6")
    assert near.blocks[1].operations == ("mbconv4", "sepconv", "mbconv3", "mbconv6")
    assert near.blocks[0].kernel_sizes == (7, 3, 5)
    assert near.depth_multiplier == 0.5


def test_the_command_writes_a_file_that_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "near.toml"
    space("around", "mnasnet-b1", output=path)
    assert f"tvm-mnas space {path}" in capsys.readouterr().out
    assert read_space(path).name == "near"
    space("around", "mnasnet-b1")
    printed = capsys.readouterr().out
    assert printed.replace("around-", "") != printed
    assert printed.count("[[blocks]]") == 7


def test_mistakes_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="tvm-mnas space around mnasnet-b1"):
        space("around")
    with pytest.raises(SpaceError, match="mobilenet-v1 is none"):
        space("around", "mobilenet-v1")
    with pytest.raises(SpaceError, match=r"ends in \.toml, not .*near\.txt"):
        space("around", "mnasnet-b1", output=tmp_path / "near.txt")
    (tmp_path / "near.toml").write_text("mine")
    with pytest.raises(SpaceError, match="give -o another path"):
        space("around", "mnasnet-b1", output=tmp_path / "near.toml")
    assert (tmp_path / "near.toml").read_text() == "mine"
    with pytest.raises(SpaceError, match="belong to `around`"):
        space("quickstart", "mnasnet-b1")
