"""The model of a core: what a profile may state of it, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mnas.cores.model import CoreModel, check_stated
from tvm_mnas.errors import ProfileError

AVX512 = CoreModel(lanes=16, registers=32)


def test_an_instruction_works_on_a_whole_register_unless_that_is_stated() -> None:
    assert AVX512.width == 16
    assert CoreModel(lanes=16, registers=32, datapath=8).width == 8
    assert AVX512.sums_in_flight == 8
    assert AVX512.stated({"latency_cycles": 5, "multiply_adds_per_cycle": 1}).sums_in_flight == 5


def test_halves_are_twice_as_many() -> None:
    assert AVX512.doubled() == CoreModel(lanes=32, registers=32)
    double_pumped = AVX512.stated({"datapath": 8})
    assert (double_pumped.doubled().lanes, double_pumped.doubled().width) == (32, 16)


def test_other_lanes_are_another_datapath_unless_that_is_stated_too() -> None:
    double_pumped = AVX512.stated({"datapath": 8})
    assert double_pumped.stated({"lanes": 4}).width == 4
    assert double_pumped.stated({"lanes": 4, "datapath": 2}).width == 2
    assert double_pumped.stated({}) == double_pumped


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lanes": 0}, "target.core_model.lanes must be a whole number >= 1, not 0"),
        ({"registers": 2.5}, "target.core_model.registers must be a whole number >= 1, not 2.5"),
        ({"loads_per_cycle": True}, "loads_per_cycle must be a whole number >= 1, not True"),
        ({"lanes": 4, "datapath": 8}, "at most the lanes of a register (4), not 8"),
        ({"multiplies_lanes": 1}, "multiplies_lanes must be true or false, not 1"),
        (
            {"cache": 1},
            "target.core_model.cache is not a key; there are: datapath, first_cache_bytes",
        ),
        ("fast", "target.core_model must be a table, not 'fast'"),
    ],
)
def test_what_no_core_is_like_is_refused_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(ProfileError) as refused:
        check_stated(values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
