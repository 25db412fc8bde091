"""The latency predictor: recovers what made the data, never goes negative, round-trips."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tvm_mnas.errors import DataError
from tvm_mnas.evaluation.predictor import (
    LatencyPredictor,
    MeasuredNetwork,
    fit_predictor,
    leave_one_out_error,
    prediction_error,
)


def _networks(
    truth: tuple[float, float, float, float], noise: float = 0.0
) -> list[MeasuredNetwork]:
    rng = random.Random(4)
    networks = []
    for _ in range(30):
        us, calls, moved = rng.uniform(2e3, 4e4), rng.randrange(20, 90), rng.randrange(10**7, 10**8)
        latency_ms = truth[0] * us / 1000 + truth[1] * calls + truth[2] * moved / 1e6 + truth[3]
        latency_ms *= 1 + rng.uniform(-noise, noise)
        networks.append(MeasuredNetwork(us, calls, moved, latency_ms))
    return networks


def test_the_coefficients_that_made_the_data_are_found() -> None:
    networks = _networks((1.1, 0.004, 0.006, 0.3))
    found = fit_predictor(networks)
    assert found.kernels_factor == pytest.approx(1.1)
    assert found.call_ms == pytest.approx(0.004)
    assert found.megabyte_ms == pytest.approx(0.006)
    assert found.network_ms == pytest.approx(0.3)
    error = prediction_error(found, networks)
    assert error.mape == pytest.approx(0, abs=1e-9)
    assert error.spearman == pytest.approx(1)


def test_no_coefficient_is_negative_and_none_near_by_is_better() -> None:
    networks = _networks((1.2, -0.01, 0.005, 0.2), noise=0.05)

    def squares(*coefficients: float) -> float:
        guess = LatencyPredictor(*coefficients)
        return sum(
            (guess.predict_ms(n.kernels_us, n.calls, n.moved_bytes) / n.latency_ms - 1) ** 2
            for n in networks
        )

    found = fit_predictor(networks)
    coefficients = (found.kernels_factor, found.call_ms, found.megabyte_ms, found.network_ms)
    assert found.call_ms == 0
    assert found.megabyte_ms > 0
    tried = 0
    for at, step in itertools.product(range(4), (1e-4, -1e-4)):
        near = [value + step * (at == place) for place, value in enumerate(coefficients)]
        if min(near) >= 0:
            tried += 1
            assert squares(*near) >= squares(*coefficients)
    assert tried >= 6


def test_errors_are_those_worked_out_by_hand() -> None:
    networks = [MeasuredNetwork(1e3, 1, 1, 2.0), MeasuredNetwork(2e3, 1, 1, 1.0)]
    error = prediction_error(LatencyPredictor(1, 0, 0, 0), networks)
    assert error.mape == pytest.approx((0.5 + 1.0) / 2)
    assert error.spearman == pytest.approx(-1)
    assert prediction_error(LatencyPredictor(0, 0, 0, 1), networks).spearman is None


def test_a_guess_is_the_sum_of_what_is_worked_out_by_hand() -> None:
    predictor = LatencyPredictor(1.5, 0.25, 0.125, 0.5)
    assert predictor.predict_ms(2e3, 10, 8_000_000) == pytest.approx(3 + 2.5 + 1 + 0.5)


def test_json_round_trips_and_mistakes_are_named() -> None:
    predictor = LatencyPredictor(1.25, 0.003, 0.005, 0.1)
    assert LatencyPredictor.from_json(predictor.to_json()) == predictor
    negative = predictor.to_json().replace("1.25", "-1")
    for text in ("", "[]", "{}", negative, predictor.to_json().replace("megabyte", "byte")):
        with pytest.raises(DataError):
            LatencyPredictor.from_json(text)
    with pytest.raises(DataError, match="not 3"):
        fit_predictor(_networks((1, 0, 0, 1))[:3])
    for numbers in ((1.0, 1, 1, float("nan")), (1.0, 1, 0, 1.0)):
        with pytest.raises(DataError):
            MeasuredNetwork(*numbers)


def _same_calls(networks: list[MeasuredNetwork]) -> list[MeasuredNetwork]:
    """Calls and the constant then cannot be told apart."""
    return [replace(each, calls=40) for each in networks]


def _one_differs(networks: list[MeasuredNetwork]) -> list[MeasuredNetwork]:
    """One network alone tells what a call takes."""
    return [*_same_calls(networks[:-1]), replace(networks[-1], calls=80)]


@pytest.mark.parametrize("count", [5, 6, 30])
@pytest.mark.parametrize("changed", [list, _same_calls, _one_differs])
@pytest.mark.parametrize("truth", [(1.1, 0.004, 0.006, 0.3), (1.3, 0.0, 0.0, 0.0)])
def test_leaving_one_out_is_fitting_by_hand_on_all_the_others(
    count: int,
    changed: Callable[[list[MeasuredNetwork]], list[MeasuredNetwork]],
    truth: tuple[float, float, float, float],
) -> None:
    networks = changed(_networks(truth, noise=0.1)[:count])
    guesses = [
        fit_predictor([other for other in networks if other is not each]).predict_ms(
            each.kernels_us, each.calls, each.moved_bytes
        )
        for each in networks
    ]
    errors = [
        abs(guess - each.latency_ms) / each.latency_ms
        for guess, each in zip(guesses, networks, strict=True)
    ]
    found = leave_one_out_error(networks)
    assert found.mape == pytest.approx(sum(errors) / count, rel=1e-6)
    assert found.mape > prediction_error(fit_predictor(networks), networks).mape


def test_leaving_one_out_needs_five() -> None:
    with pytest.raises(DataError, match="not 4"):
        leave_one_out_error(_networks((1.1, 0.004, 0.006, 0.3))[:4])
