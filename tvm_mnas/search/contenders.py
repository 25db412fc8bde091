"""Which candidates could be the best once all of them are measured at one speed of the device.

A device may change its speed for good in the middle of a search (Latency.reference_ms tells). Latencies from before and
after do not compare; scaled by the reference kernel they tell roughly who is worth another measurement, and nothing
else: a scaled time is never shown, stored or rewarded. Arithmetic alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.search.pareto import Point, dominates, pareto_front
from tvm_mnas.search.result import succeeded
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord

NEAR = 0.1
"""What a scaled latency may be off: a candidate that would be among the best if it were so much faster is near them."""


def at_level(latency: Latency, levels_ms: Sequence[float]) -> bool:
    """Return whether a latency was measured while its device had one of these levels, as far as anybody knows.

    `levels_ms` is what the reference kernel takes now on each device of the profile.
    """
    return (
        latency.reference_ms is None
        or not levels_ms
        or abs(latency.reference_ms / _nearest(latency.reference_ms, levels_ms) - 1.0)
        <= latency.max_spread
    )


def contenders(
    records: Sequence[TrialRecord], *, reward: Reward, levels_ms: Sequence[float], finalists: int
) -> list[TrialRecord]:
    """Return the candidates on or near the Pareto front or the `finalists` highest rewards, by the trial that met each.

    Those measured at another level are judged by what the reference kernel says that they would take now, and as they
    were measured.
    """
    candidates = succeeded(records)
    scaled = _best([_point(record, levels_ms) for record in candidates], reward, finalists, NEAR)
    # One that a fast minute flattered would be chosen as long as its latency stands.
    as_measured = _best([_point(record, ()) for record in candidates], reward, finalists, 0.0)
    return [candidates[index] for index in sorted(scaled | as_measured)]


def _best(points: Sequence[Point], reward: Reward, count: int, near: float) -> set[int]:
    front = [points[index] for index in pareto_front(points)]
    rewards = sorted((reward(*point) for point in points), reverse=True)[:count]
    found: set[int] = set()
    for index, point in enumerate(points):
        quicker = Point(point.accuracy, (1.0 - near) * point.latency_ms)
        near_front = not any(dominates(other, quicker) for other in front if other != point)
        if near_front or reward(*quicker) >= rewards[-1]:
            found.add(index)
    return found


def _point(record: TrialRecord, levels_ms: Sequence[float]) -> Point:
    latency, accuracy = record.evaluation.latency, record.evaluation.accuracy
    assert latency is not None and accuracy is not None
    factor = 1.0
    if latency.reference_ms is not None and not at_level(latency, levels_ms):
        factor = _nearest(latency.reference_ms, levels_ms) / latency.reference_ms
    return Point(accuracy.top1, factor * latency.latency_ms)


def _nearest(reference_ms: float, levels_ms: Sequence[float]) -> float:
    return min(levels_ms, key=lambda level_ms: abs(math.log(level_ms / reference_ms)))
