"""The reward against values worked out by hand, and everything it refuses."""

from __future__ import annotations

import math

import pytest

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.reward import Reward, parse_latency


@pytest.mark.parametrize(
    ("text", "latency_ms"),
    [
        ("80ms", 80.0),
        ("80 ms", 80.0),
        (" 0.08s ", 80.0),
        ("900us", 0.9),
        ("900µs", 0.9),
        (".5ms", 0.5),
        ("2.s", 2000.0),
    ],
)
def test_a_latency_is_read_in_its_unit(text: str, latency_ms: float) -> None:
    assert parse_latency(text) == pytest.approx(latency_ms, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    ["80", "", "ms", "-80ms", "0ms", "80min", "80 m s", "1e3ms", "nanms", "0.0s", 80, 0.08, None],
)
def test_a_latency_without_unit_or_sense_is_refused_with_the_value_and_an_example(
    text: object,
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_latency(text)  # type: ignore[arg-type]
    assert repr(text) in str(caught.value)
    assert "80ms" in str(caught.value)


@pytest.mark.parametrize(
    ("latency_ms", "soft", "hard"),
    [
        # Paper, figure 2, ACC = 0.5 and T = 80 ms: 0.5 * (LAT / 80) ** -0.07; 0.5, then 40 / LAT.
        (80.0, 0.5, 0.5),
        (40.0, 0.5 * 2.0**0.07, 0.5),
        (20.0, 0.5 * 4.0**0.07, 0.5),
        (160.0, 0.5 / 2.0**0.07, 0.25),
        (100.0, 0.5 * math.exp(-0.07 * math.log(1.25)), 0.4),
    ],
)
def test_equations_2_and_3_give_figure_2(latency_ms: float, soft: float, hard: float) -> None:
    assert Reward.soft(80.0)(0.5, latency_ms) == pytest.approx(soft, rel=1e-12)
    assert Reward.hard(80.0)(0.5, latency_ms) == pytest.approx(hard, rel=1e-12)


def test_halving_the_latency_is_worth_five_percent_as_the_paper_says() -> None:
    reward = Reward(80.0)
    assert reward == Reward.soft(80.0)
    assert reward(0.5, 40.0) / reward(0.5, 80.0) - 1.0 == pytest.approx(0.05, abs=0.001)


def test_alpha_holds_up_to_the_target_and_beta_beyond() -> None:
    reward = Reward(10.0, alpha=-0.5, beta=-2.0)
    assert reward(1.0, 2.5) == pytest.approx(2.0)
    assert reward(1.0, 10.0) == 1.0
    assert reward(1.0, 20.0) == pytest.approx(0.25)


@pytest.mark.parametrize("accuracy", [-0.01, 1.01, 73.5, math.nan])
def test_an_accuracy_outside_0_to_1_is_refused(accuracy: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        Reward(80.0)(accuracy, 80.0)


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, math.inf, math.nan])
def test_a_latency_that_cannot_be_is_refused(latency_ms: float) -> None:
    with pytest.raises(ConfigError, match="latency"):
        Reward(80.0)(0.5, latency_ms)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_latency_ms": 0.0},
        {"target_latency_ms": -80.0},
        {"target_latency_ms": math.nan},
        {"target_latency_ms": 80.0, "alpha": 0.07},
        {"target_latency_ms": 80.0, "beta": math.nan},
    ],
)
def test_a_reward_that_prefers_slow_networks_cannot_be_built(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Reward(**fields)


def test_a_failed_candidate_has_no_reward() -> None:
    reward = Reward(80.0)
    assert reward.of(None, 80.0) is None
    assert reward.of(0.5, None) is None
    assert reward.of(0.5, 80.0) == 0.5
