"""What a search came to prefer follows from what it proposed, early and late."""

from __future__ import annotations

import random

import pytest

from tests.report.runs import make_latency, make_run, make_success
from tvm_mnas.report.web.choices import (
    WINDOW,
    entropy_over_trials,
    preferences,
    proposals_of,
)
from tvm_mnas.space.files import load_space
from tvm_mnas.space.space import Decision

TWO = (Decision("block1.conv_op", ("conv", "sepconv")), Decision("block2.kernel_size", (3, 5)))


def test_proposals_are_the_tokens_of_the_space() -> None:
    space = load_space("quickstart")
    rng = random.Random(0)
    tokens = [space.sample(rng) for _ in range(5)]
    records = [
        make_success(number, space.decode(one), 0.7, make_latency(0.05))
        for number, one in enumerate(tokens)
    ]
    assert proposals_of(records, space) == list(enumerate(tokens))
    assert proposals_of(make_run(5), space) == [], "of another space"


def test_entropy_is_one_for_even_choices_and_none_for_the_same() -> None:
    even = [(n, (n % 2, (n // 2) % 2)) for n in range(WINDOW)]
    same = [(WINDOW + n, (1, 0)) for n in range(WINDOW)]
    series = entropy_over_trials(even + same, TWO)
    assert series[0] == (WINDOW - 1, pytest.approx(1.0))
    assert series[-1] == (2 * WINDOW - 1, 0.0)
    values = [value for _, value in series]
    assert values == sorted(values, reverse=True)
    assert entropy_over_trials(even[:-1], TWO) == []


def test_preferences_compare_the_first_quarter_with_the_last() -> None:
    early = [(n, (n % 2, 0)) for n in range(10)]
    late = [(n, (1, 0)) for n in range(10, 40)]
    first, second = preferences(early + late, TWO)
    assert (first.group, first.name) == ("block1", "conv_op")
    assert [(s.choice, s.early_percent, s.late_percent) for s in first.shares] == [
        ("conv", 50.0, 0.0),
        ("sepconv", 50.0, 100.0),
    ]
    assert [s.late_percent for s in second.shares] == [100.0, 0.0]
    assert preferences(early, TWO) == (), "a few trials show none"
