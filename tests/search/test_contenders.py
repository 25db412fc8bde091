"""Who is measured again after the device changed its speed: everybody who could be among the best."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.report.runs import (
    REWARD,
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.search.contenders import NEAR, at_level, contenders
from tvm_mnas.search.run import TrialRecord

A, B, C, D = sample_architectures(4)


def timed(latency_ms: float, reference_ms: float | None) -> Latency:
    change = None if reference_ms is None else 0.0
    return replace(make_latency(latency_ms), reference_ms=reference_ms, reference_change=change)


def numbers(records: list[TrialRecord], levels_ms: tuple[float, ...], finalists: int) -> list[int]:
    found = contenders(records, reward=REWARD, levels_ms=levels_ms, finalists=finalists)
    return [record.number for record in found]


def test_a_latency_is_at_a_level_within_the_spread_or_where_nobody_knows() -> None:
    assert make_latency(1.0).max_spread == 0.05
    for reference_ms, levels_ms, expected in (
        (0.2, (0.2,), True),
        (0.209, (0.2,), True),
        (0.211, (0.2,), False),
        (0.191, (0.2,), True),
        (0.189, (0.2,), False),
        (0.3, (0.2, 0.3), True),
        (0.25, (0.2, 0.3), False),
        (0.25, (), True),
        (None, (0.2,), True),
    ):
        assert at_level(timed(1.0, reference_ms), levels_ms) is expected, (reference_ms, levels_ms)


def test_a_slow_minute_hides_nobody_and_a_fast_one_flatters_nobody() -> None:
    slowed = make_success(0, A, 0.80, timed(2.0, 0.4))  # it would take 1 ms now: the best
    usual = make_success(1, B, 0.79, timed(1.5, 0.2))
    flattered = make_success(2, C, 0.70, timed(0.7, 0.1))  # 1.4 ms now, but so far the fastest
    beaten = make_success(2, C, 0.70, timed(1.8, 0.1))  # whatever one believes
    failed = make_failure(3, D)
    assert numbers([slowed, usual, flattered, failed], (0.2,), 1) == [0, 1, 2]
    assert numbers([slowed, usual, beaten, failed], (0.2,), 1) == [0, 1]
    # Where the slowed one was timed at the level after all, the others are on the front or near it.
    assert numbers([replace_reference(slowed, 0.2), usual], (0.2,), 1) == [0, 1]


def replace_reference(record: TrialRecord, reference_ms: float | None) -> TrialRecord:
    latency = record.evaluation.latency
    if latency is None:
        return record
    moved = replace(latency, reference_ms=reference_ms, reference_change=None)
    return replace(record, evaluation=replace(record.evaluation, latency=moved))


@pytest.mark.parametrize("seed", range(5))
def test_they_are_what_comparing_all_with_all_finds(seed: int) -> None:
    rng = random.Random(seed)
    levels_ms = (0.2,)
    records = [
        replace_reference(record, rng.choice((None, 0.15, 0.2, 0.28))) for record in make_run(60)
    ]
    distinct = [r for r in records if r.reward is not None and r.repeats is None]

    def now(record: TrialRecord) -> tuple[float, float]:
        assert record.evaluation.objectives is not None and record.evaluation.latency is not None
        accuracy, latency_ms = record.evaluation.objectives
        reference_ms = record.evaluation.latency.reference_ms
        return accuracy, latency_ms * (1.0 if reference_ms is None else 0.2 / reference_ms)

    def measured(record: TrialRecord) -> tuple[float, float]:
        assert record.evaluation.objectives is not None
        return record.evaluation.objectives

    expected = best({r.number: now(r) for r in distinct}, NEAR)
    expected |= best({r.number: measured(r) for r in distinct}, 0.0)
    assert set(numbers(records, levels_ms, 3)) == expected
    assert 3 <= len(expected) < len(distinct)


def best(estimates: dict[int, tuple[float, float]], near: float) -> set[int]:
    least = sorted((REWARD(*one) for one in estimates.values()), reverse=True)[2]
    expected = set()
    for number, (accuracy, latency_ms) in estimates.items():
        quicker = latency_ms * (1.0 - near)
        beaten = any(
            other != number and top1 >= accuracy and ms <= quicker
            for other, (top1, ms) in estimates.items()
        )
        if not beaten or REWARD(accuracy, quicker) >= least:
            expected.add(number)
    return expected


def test_nobody_is_found_among_nobody() -> None:
    assert numbers([make_failure(0, A)], (0.2,), 2) == []
    assert numbers([], (), 2) == []
