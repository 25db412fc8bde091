"""The latency predictor: recovers what made the data, never goes negative, round-trips."""

from __future__ import annotations

import random

import pytest

from tvm_mnas.errors import DataError
from tvm_mnas.search.predictor import (
    LatencyPredictor,
    MeasuredNetwork,
    fit_predictor,
    leave_one_out_error,
    prediction_error,
)


def _networks(truth: tuple[float, float, float], noise: float = 0.0) -> list[MeasuredNetwork]:
    rng = random.Random(4)
    networks = []
    for _ in range(30):
        us, calls = rng.uniform(2e3, 4e4), rng.randrange(20, 90)
        latency_ms = truth[0] * us / 1000 + truth[1] * calls + truth[2]
        networks.append(MeasuredNetwork(us, calls, latency_ms * (1 + rng.uniform(-noise, noise))))
    return networks


def test_the_coefficients_that_made_the_data_are_found() -> None:
    networks = _networks((1.1, 0.004, 0.3))
    found = fit_predictor(networks)
    assert found.kernels_factor == pytest.approx(1.1)
    assert found.call_ms == pytest.approx(0.004)
    assert found.network_ms == pytest.approx(0.3)
    error = prediction_error(found, networks)
    assert error.mape == pytest.approx(0, abs=1e-9)
    assert error.spearman == pytest.approx(1)


def test_no_coefficient_is_negative_and_none_near_by_is_better() -> None:
    networks = _networks((1.2, -0.01, 0.2), noise=0.05)

    def squares(a: float, b: float, c: float) -> float:
        guess = LatencyPredictor(a, b, c)
        return sum(
            (guess.predict_ms(n.kernels_us, n.calls) / n.latency_ms - 1) ** 2 for n in networks
        )

    found = fit_predictor(networks)
    a, b, c = found.kernels_factor, found.call_ms, found.network_ms
    assert b == 0
    for da, db, dc in ((1e-4, 0, 0), (-1e-4, 0, 0), (0, 1e-4, 0), (0, 0, 1e-3), (0, 0, -1e-3)):
        if min(a + da, b + db, c + dc) >= 0:
            assert squares(a + da, b + db, c + dc) >= squares(a, b, c)


def test_errors_are_those_worked_out_by_hand() -> None:
    networks = [MeasuredNetwork(1e3, 1, 2.0), MeasuredNetwork(2e3, 1, 1.0)]
    error = prediction_error(LatencyPredictor(1, 0, 0), networks)
    assert error.mape == pytest.approx((0.5 + 1.0) / 2)
    assert error.spearman == pytest.approx(-1)
    assert prediction_error(LatencyPredictor(0, 0, 1), networks).spearman is None


def test_json_round_trips_and_mistakes_are_named() -> None:
    predictor = LatencyPredictor(1.25, 0.003, 0.1)
    assert LatencyPredictor.from_json(predictor.to_json()) == predictor
    for text in ("", "[]", "{}", '{"kernels_factor": -1, "call_ms": 0, "network_ms": 0}'):
        with pytest.raises(DataError):
            LatencyPredictor.from_json(text)
    with pytest.raises(DataError, match="not 2"):
        fit_predictor(_networks((1, 0, 1))[:2])
    with pytest.raises(DataError):
        MeasuredNetwork(1.0, 1, float("nan"))


def test_leaving_one_out_is_fitting_by_hand_on_all_the_others() -> None:
    networks = _networks((1.1, 0.004, 0.3), noise=0.1)[:5]
    guesses = [
        fit_predictor([other for other in networks if other is not each]).predict_ms(
            each.kernels_us, each.calls
        )
        for each in networks
    ]
    errors = [
        abs(guess - each.latency_ms) / each.latency_ms
        for guess, each in zip(guesses, networks, strict=True)
    ]
    found = leave_one_out_error(networks)
    assert found.mape == pytest.approx(sum(errors) / 5)
    assert found.mape > prediction_error(fit_predictor(networks), networks).mape
    with pytest.raises(DataError, match="not 3"):
        leave_one_out_error(networks[:3])
