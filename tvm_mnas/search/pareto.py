"""Which candidates nobody beats: the Pareto front of high accuracy and low latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tvm_mnas.errors import ConfigError


class Point(NamedTuple):
    """A candidate's accuracy in 0..1 and its latency in milliseconds."""

    accuracy: float
    latency_ms: float


def dominates(first: Point, second: Point) -> bool:
    """Return whether `first` is as good as `second` in both objectives and better in one."""
    return (
        first.accuracy >= second.accuracy
        and first.latency_ms <= second.latency_ms
        and first != second
    )


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points that no other point dominates, the fastest first.

    Equal points don't dominate each other: all of them are in the set, in their given order.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i].latency_ms, -points[i].accuracy, i))
    members: list[int] = []
    for index in order:
        last = points[members[-1]] if members else None
        if last is None or points[index].accuracy > last.accuracy or points[index] == last:
            members.append(index)
    return members


def hypervolume(points: Sequence[Point], *, reference: Point) -> float:
    """Return the area (accuracy x ms) that `points` dominate, up to `reference`.

    `reference` is the worst point that counts: what is slower or less accurate than it adds
    nothing.
    """
    if not reference.latency_ms > 0.0:
        raise ConfigError(f"a reference latency must be positive, not {reference.latency_ms} ms")
    area = 0.0
    floor = reference.accuracy
    for index in pareto_front(points):
        point = points[index]
        if point.latency_ms < reference.latency_ms and point.accuracy > floor:
            area += (reference.latency_ms - point.latency_ms) * (point.accuracy - floor)
            floor = point.accuracy
    return area
