"""`tvm-mnas space --kernels`: what is printed, and its mistakes."""

from __future__ import annotations

import json

import pytest

from tvm_mnas.commands.space import space
from tvm_mnas.errors import SpaceError
from tvm_mnas.space.files import load_space
from tvm_mnas.space.kernels import count_kernels


def test_json_has_the_counts_of_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    space("quickstart", kernels=True, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    counted = count_kernels(load_space("quickstart"))
    assert printed["kernels"] == len(counted.distinct) == sum(printed["by_kind"].values())
    assert list(printed["by_part"]) == [part for part, _ in counted.parts]
    assert 0 < printed["least_mult_adds"] < printed["most_mult_adds"] == counted.most_mult_adds


def test_the_table_names_kinds_parts_and_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    space("quickstart", kernels=True)
    out = capsys.readouterr().out
    counted = count_kernels(load_space("quickstart"))
    assert f"{len(counted.distinct)} distinct kernels" in out
    assert "depthwise 5x5 stride 2" in out
    assert "block1" in out
    assert f"{counted.least_mult_adds:,} to {counted.most_mult_adds:,} mult-adds" in out


@pytest.mark.parametrize(("name", "sample"), [(None, 0), ("mnasnet", 3)])
def test_kernels_are_those_of_one_space(name: str | None, sample: int) -> None:
    with pytest.raises(SpaceError, match="tvm-mnas space .* --kernels"):
        space(name, sample=sample, kernels=True)
