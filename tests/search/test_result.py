"""Finalists and seeds: a choice that depends on the trials alone."""

from __future__ import annotations

import random

import pytest

from tests.report.runs import (
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.evaluation.trainers import training_seed
from tvm_mnas.search.result import pick_finalists
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture

A, B, C, D = sample_architectures(4)


def numbers(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in records]


def test_the_highest_rewards_come_first() -> None:
    latency = make_latency(0.06)
    records = [
        make_success(0, A, 0.7, latency),
        make_success(1, B, 0.9, latency),
        make_success(2, C, 0.8, latency),
    ]
    assert numbers(pick_finalists(records, 2)) == [1, 2]
    assert numbers(pick_finalists(records, 9)) == [1, 2, 0]


def test_the_reward_decides_and_not_the_accuracy() -> None:
    slow, quick = make_latency(6.0), make_latency(0.006)
    records = [make_success(0, A, 0.80, slow), make_success(1, B, 0.79, quick)]
    assert numbers(pick_finalists(records, 1)) == [1]


def test_a_candidate_is_a_finalist_once_by_its_first_trial() -> None:
    latency = make_latency(0.06)
    records = [
        make_success(0, A, 0.7, latency),
        make_success(1, B, 0.9, latency),
        make_success(2, B, 0.9, latency, repeats=1),
    ]
    assert numbers(pick_finalists(records, 3)) == [1, 0]


def test_a_failed_candidate_is_no_finalist() -> None:
    records = [make_failure(0, A), make_success(1, B, 0.1, make_latency(50.0)), make_failure(2, C)]
    assert numbers(pick_finalists(records, 3)) == [1]
    assert pick_finalists([make_failure(0, A)], 3) == []
    assert pick_finalists([], 3) == []


def test_ties_go_to_the_earlier_trial() -> None:
    latency = make_latency(0.06)
    records = [make_success(n, a, 0.7, latency) for n, a in enumerate((A, B, C, D))]
    assert numbers(pick_finalists(records, 2)) == [0, 1]
    assert numbers(pick_finalists(records[::-1], 2)) == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_finalists_are_what_sorting_everything_gives(seed: int) -> None:
    records = make_run(40, seed=seed)
    rewards = sorted(
        (r.reward for r in records if r.reward is not None and r.repeats is None), reverse=True
    )
    shuffled = random.Random(seed).sample(records, len(records))
    chosen = pick_finalists(shuffled, 5)
    assert [record.reward for record in chosen] == rewards[:5]


def test_a_training_seed_follows_from_run_and_architecture() -> None:
    seeds = {training_seed(run, architecture) for run in (0, 1) for architecture in (A, B, C, D)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert training_seed(0, A) == training_seed(0, type(A).parse(A.notation))


def test_a_training_seed_stays_the_same_in_later_versions() -> None:
    """It decides the accuracy of what people searched before."""
    fixed = Architecture.parse("i32_c3_w1:stem16_s22:r1_k3_s11_e1_i16_o16:head256:n10")
    assert [training_seed(seed, fixed) for seed in (0, 1)] == [2753991982, 3412159455]
