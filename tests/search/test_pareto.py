"""The Pareto front and the hypervolume against the definitions, written naively."""

from __future__ import annotations

import random

import pytest

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.pareto import Point, dominates, hypervolume, pareto_front


def _random_points(seed: int, count: int) -> list[Point]:
    # Few different values, so that ties in one objective and equal points are common.
    rng = random.Random(seed)
    return [Point(rng.randrange(12) / 12, 1.0 + rng.randrange(12)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_the_set_is_what_no_other_point_dominates(seed: int) -> None:
    points = _random_points(seed, 1 + 4 * seed)
    naive = {
        i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)
    }
    found = pareto_front(points)
    assert set(found) == naive
    assert len(found) == len(naive)
    assert [points[i].latency_ms for i in found] == sorted(points[i].latency_ms for i in found)


def test_dominating_takes_one_strict_advantage() -> None:
    assert dominates(Point(0.7, 10.0), Point(0.7, 11.0))
    assert dominates(Point(0.8, 10.0), Point(0.7, 10.0))
    assert not dominates(Point(0.7, 10.0), Point(0.7, 10.0))
    assert not dominates(Point(0.8, 11.0), Point(0.7, 10.0))


def test_no_points_have_an_empty_set() -> None:
    assert pareto_front([]) == []
    assert hypervolume([], reference=Point(0.0, 10.0)) == 0.0


@pytest.mark.parametrize("seed", range(10))
def test_the_hypervolume_is_the_area_of_the_unit_cells_that_a_point_dominates(seed: int) -> None:
    points = _random_points(100 + seed, 15)
    reference = Point(2 / 12, 9.0)
    cells = sum(
        any(p.accuracy >= (row + 1) / 12 and p.latency_ms <= column for p in points)
        for row in range(2, 12)
        for column in range(1, 9)
    )
    assert hypervolume(points, reference=reference) == pytest.approx(cells / 12)


def test_points_worse_than_the_reference_add_nothing() -> None:
    reference = Point(0.5, 10.0)
    assert hypervolume([Point(0.4, 1.0), Point(0.9, 10.0)], reference=reference) == 0.0
    assert hypervolume([Point(0.7, 5.0)], reference=reference) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="reference"):
        hypervolume([Point(0.7, 5.0)], reference=Point(0.5, 0.0))
