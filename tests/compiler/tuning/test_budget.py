"""Schedules go where they save most, nobody starves, and who stopped improving gets no more."""

from __future__ import annotations

import random

import pytest

from tvm_mnas.compiler.tuning.budget import MOST, KernelProgress, next_kernel


def _kernel(*curve_us: float, weight: float = 1.0, exhausted: bool = False) -> KernelProgress:
    return KernelProgress(
        weight=weight, rounds=len(curve_us), curve_us=tuple(curve_us), exhausted=exhausted
    )


def test_every_kernel_gets_a_first_round_in_order() -> None:
    kernels = [_kernel(900.0), _kernel(), _kernel(weight=9.0)]
    assert next_kernel(kernels) == 1
    assert next_kernel([*kernels[:1], _kernel(5.0), kernels[2]]) == 2


def test_of_those_of_which_nothing_ran_the_one_with_fewest_rounds_is_next() -> None:
    tried = KernelProgress(weight=1.0, rounds=2, curve_us=())
    assert next_kernel([tried, _kernel(), _kernel(3.0)]) == 1
    assert next_kernel([tried, _kernel(3.0)]) == 0


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (_kernel(50.0, weight=3.0), _kernel(100.0)),
        (_kernel(100.0, 80.0), _kernel(100.0, 95.0, 93.0)),
        (_kernel(100.0), _kernel(100.0, 100.0, 99.0)),
        (_kernel(10.0), _kernel(1000.0, 1000.0, 999.0, 998.0)),
    ],
    ids=["more calls", "more gained", "unknown", "large but stalled"],
)
def test_the_next_round_goes_where_it_saves_most(
    more: KernelProgress, less: KernelProgress
) -> None:
    assert next_kernel([more, less]) == 0
    assert next_kernel([less, more]) == 1


def test_a_kernel_that_stopped_improving_gets_no_more() -> None:
    assert next_kernel([_kernel(100.0, 99.9, 99.8, 99.7)]) is None
    assert next_kernel([_kernel(100.0, 99.9, 99.8)]) == 0
    assert next_kernel([_kernel(100.0, exhausted=True)]) is None
    assert next_kernel([]) is None


@pytest.mark.parametrize(("weight", "rounds"), [(0.0, 1), (1.0, 0)])
def test_an_impossible_kernel_cannot_be_made(weight: float, rounds: int) -> None:
    with pytest.raises(ValueError, match="a kernel must have a weight above 0"):
        KernelProgress(weight=weight, rounds=rounds, curve_us=(1.0,))


def _spend(
    times_us: list[list[float]], weights: list[float], *, each: int, per_round: int
) -> tuple[list[int], float]:
    """Return the schedules that each kernel got, and the weighted time, where `times_us` are what schedules take."""
    spent, curves = [0] * len(times_us), [[] for _ in times_us]
    pool = each * len(times_us)
    while pool > 0:
        kernels = [
            _kernel(*curve, weight=weight, exhausted=used >= MOST * each)
            for curve, weight, used in zip(curves, weights, spent, strict=True)
        ]
        chosen = next_kernel(kernels)
        if chosen is None:
            break
        asked = min(per_round, pool, MOST * each - spent[chosen])
        spent[chosen] += asked
        pool -= asked
        curves[chosen].append(min(times_us[chosen][: spent[chosen]]))
    total = sum(weight * curve[-1] for weight, curve in zip(weights, curves, strict=True))
    return spent, total


def test_it_beats_equal_budgets_and_starves_nobody() -> None:
    ratios = []
    for seed in range(20):
        generator = random.Random(seed)
        # A few kernels take most of the time, as in networks; each schedule is a draw.
        limits = [generator.lognormvariate(3.0, 1.5) for _ in range(30)]
        times_us = [
            [limit * (1 + generator.expovariate(1.5)) for _ in range(64)] for limit in limits
        ]
        weights = [float(generator.randint(1, 4)) for _ in limits]
        spent, total = _spend(times_us, weights, each=16, per_round=8)
        assert min(spent) >= 8
        assert max(spent) <= 16 * MOST
        # Rounded up: as many schedules for each, and no fewer in all.
        each = -(-sum(spent) // len(limits))
        assert each <= 16
        even = sum(
            weight * min(times[:each]) for weight, times in zip(weights, times_us, strict=True)
        )
        ratios.append(total / even)
    assert sum(ratios) / len(ratios) < 0.99
    assert max(ratios) < 1.01
