"""Counts of instructions: what a server replies, and what is refused."""

from __future__ import annotations

import pytest

from tvm_mnas.devices.farm.instructions import CLASSES, InstructionCounts
from tvm_mnas.errors import MeasurementError


def test_a_reply_is_read_by_class() -> None:
    counts = InstructionCounts.of([21, 6, 5, 4, 3, 2, 1, 0])
    assert [getattr(counts, name) for name in CLASSES] == [21, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    "reply", [[], [21, 6, 5], [20, 6, 5, 4, 3, 2, 1], [0, 0, 0, 0, 0, 0, 0], [1, 2, -1, 0, 0, 0, 0]]
)
def test_what_does_not_add_up_is_refused(reply: list[int]) -> None:
    with pytest.raises(MeasurementError, match="instructions"):
        InstructionCounts.of(reply)
