"""Rank correlation against a library's; what two trainings of a candidate tell of an accuracy, by hand and in truth."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy.stats import chi2, rankdata, spearmanr

from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.ranking import AccuracyNoise, accuracy_noise, ranks, spearman


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_scipy_with_equal_values_too(seed: int) -> None:
    generator = random.Random(seed)
    first = [float(generator.randrange(6)) for _ in range(12)]
    second = [value + generator.randrange(4) for value in first]
    assert ranks(first).tolist() == (rankdata(first) - 1).tolist()
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0]])
def test_equal_values_have_no_order(values: list[float]) -> None:
    assert spearman(values, list(range(len(values)))) is None
    assert spearman(list(range(len(values))), values) is None


def test_the_noise_is_worked_out_by_hand() -> None:
    found = accuracy_noise([0.5, 0.6, 0.7, 0.8], [(0.5, 0.52), (0.6, 0.56), (0.8, 0.8)])
    assert found is not None
    # (0.02^2 + 0.04^2 + 0) / 3 / 2
    assert found.noise == pytest.approx(math.sqrt(0.002 / 6))
    assert found.spread == pytest.approx(statistics.stdev([0.5, 0.6, 0.7, 0.8]))
    reliability = 1 - (0.002 / 6) / (0.05 / 3)
    assert found.rank_correlation == pytest.approx(6 / math.pi * math.asin(reliability**0.5 / 2))
    assert (found.pairs, found.candidates) == (3, 4)


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.02])
def test_it_foretells_the_rank_correlation_with_the_truth(noise: float) -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(0.7, 0.02, 4000)
    first, second = (truth + generator.normal(0, noise, truth.size) for _ in range(2))
    found = accuracy_noise(first.tolist(), list(zip(first[:400], second[:400], strict=True)))
    assert found is not None
    assert found.noise == pytest.approx(noise, rel=0.1)
    measured = spearman(first.tolist(), truth.tolist())
    assert measured == pytest.approx(found.rank_correlation, abs=0.03)


@pytest.mark.parametrize("pairs", [3, 8, 24])
def test_few_pairs_leave_a_range(pairs: int) -> None:
    found = AccuracyNoise(noise=0.01, spread=0.02, pairs=pairs, candidates=100)
    low, high = found.rank_correlation_range
    for bound, quantile in ((low, 0.05), (high, 0.95)):
        squared = 0.01**2 * pairs / chi2.ppf(quantile, pairs)
        exact = max(0.0, 1 - squared / 0.02**2)
        assert bound == pytest.approx(6 / math.pi * math.asin(exact**0.5 / 2), abs=0.02)
    assert low <= found.rank_correlation <= high


def test_accuracies_that_are_all_noise_or_all_equal_order_nothing() -> None:
    assert AccuracyNoise(noise=0.03, spread=0.02, pairs=3, candidates=9).rank_correlation == 0
    assert AccuracyNoise(noise=0.0, spread=0.0, pairs=3, candidates=9).rank_correlation == 0
    assert AccuracyNoise(noise=0.0, spread=0.02, pairs=3, candidates=9).rank_correlation == 1


def test_too_few_pairs_tell_nothing() -> None:
    assert accuracy_noise([0.5, 0.6, 0.7], [(0.5, 0.5), (0.6, 0.6)]) is None
    assert accuracy_noise([], []) is None


def test_it_round_trips_with_what_follows_from_it() -> None:
    found = AccuracyNoise(noise=0.01, spread=0.02, pairs=7, candidates=28)
    values = found.to_json()
    assert AccuracyNoise.from_json(values) == found
    assert values["rank_correlation"] == found.rank_correlation


@pytest.mark.parametrize(
    "change", [{"noise": None}, {"pairs": 2}, {"pairs": 99}, {"spread": 7.0}, {"noise": "much"}]
)
def test_a_damaged_one_is_refused(change: dict[str, object]) -> None:
    values = AccuracyNoise(noise=0.01, spread=0.02, pairs=7, candidates=28).to_json()
    with pytest.raises(RunError):
        AccuracyNoise.from_json({**values, **change})
