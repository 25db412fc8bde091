"""Which of this machine's cores build kernels while another measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CorePlan:
    """The cores with a builder each, those that may help between measurements, and whether both go on at once."""

    building: tuple[int, ...]
    borrowed: tuple[int, ...]
    overlap: bool


def plan_cores(cores: Sequence[int], *, most: int, measuring: int | None) -> CorePlan:
    """Return how `cores`, of which at most `most` can compute at once, are shared with what measures.

    `measuring` is the core of this machine on which kernels are timed, None where another machine does that, or any
    core may be used for it. A machine of one core builds on it too; then nothing is measured meanwhile.
    """
    if measuring is None:
        return CorePlan(tuple(cores[:most]), (), True)
    others = [core for core in cores if core != measuring]
    if not others or most < 2:
        return CorePlan(tuple((others or cores)[:1]), (), False)
    building = tuple(others[: most - 1])
    return CorePlan(building, (measuring,), True)
