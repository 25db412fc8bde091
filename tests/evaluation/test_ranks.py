"""Rank correlation against a library's."""

from __future__ import annotations

import random

import pytest
from scipy.stats import rankdata, spearmanr

from tvm_mnas.evaluation.ranks import ranks, spearman


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
