"""Guesses a network's latency from its kernels' best times: for forecasts and for order, never as a reward.

A latency in a result is measured. What this returns may say how long a measurement will take or which candidate
to look at first; nothing that trains a controller or ends in a run directory may come from it.

    latency_ms ~ kernels_factor x sum(calls x best_us) / 1000 + call_ms x kernel calls
                 + megabyte_ms x sum(calls x moved_bytes) / 1e6 + network_ms

The bytes are there because a kernel that is timed alone, again and again, finds what it reads in the cache; in a
network it does not.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvm_mnas.errors import DataError
from tvm_mnas.evaluation.ranking import spearman

_LEAST_NETWORKS = 4
_COLUMN_SETS = [
    list(chosen) for count in (1, 2, 3, 4) for chosen in itertools.combinations(range(4), count)
]
"""The best fit has some coefficients at zero and is the unbounded best in the others: all fifteen sets are tried."""
_LEAST_LEFT = 1e-6
"""Of 1 - leverage, where a fit without a row still follows from the fit with it."""


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """One network: its kernels' best times and moved bytes summed over calls, the calls, and what was measured."""

    kernels_us: float
    calls: int
    moved_bytes: int
    latency_ms: float

    def __post_init__(self) -> None:
        numbers = (self.kernels_us, self.calls, self.moved_bytes, self.latency_ms)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise DataError(
                f"a network's kernel time, calls, moved bytes and latency must be above 0, not {numbers}; "
                f"`tvm-mnas bench` measures them"
            )


@dataclass(frozen=True, slots=True)
class LatencyPredictor:
    """The fitted coefficients, none of them negative; `fit_predictor` returns one."""

    kernels_factor: float
    call_ms: float
    megabyte_ms: float
    network_ms: float

    def __post_init__(self) -> None:
        numbers = (self.kernels_factor, self.call_ms, self.megabyte_ms, self.network_ms)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise DataError(
                f"a predictor's coefficients must be finite and at least 0, not {numbers}; fit it again"
            )

    def predict_ms(self, kernels_us: float, calls: int, moved_bytes: int) -> float:
        """Return the guessed latency in ms of a network with `calls` kernel calls that take and move this in all."""
        return (
            self.kernels_factor * kernels_us / 1000
            + self.call_ms * calls
            + self.megabyte_ms * moved_bytes / 1e6
            + self.network_ms
        )

    @property
    def formula(self) -> str:
        """How a latency in ms is guessed, in words."""
        return (
            f"{self.kernels_factor:.4g} x the sum of its kernels in ms + {self.call_ms:.4g} x kernel calls "
            f"+ {self.megabyte_ms:.4g} x MB that they read and write + {self.network_ms:.4g}"
        )

    def to_json(self) -> str:
        """Return one JSON document that `from_json` reads back to an equal predictor."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LatencyPredictor:
        """Return the predictor that `text` holds; raises `DataError` where it holds none."""
        try:
            document = json.loads(text)
            names = ("kernels_factor", "call_ms", "megabyte_ms", "network_ms")
            coefficients = [float(document[name]) for name in names]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"a predictor is a JSON object with kernels_factor, call_ms, megabyte_ms and network_ms, "
                f"not {text[:60]!r}; fit it again"
            ) from error
        return cls(*coefficients)


@dataclass(frozen=True, slots=True)
class PredictionError:
    """How far guesses are off: the mean of |guess - measured| / measured, and Spearman's rank correlation.

    `spearman` is None where all guesses or all measurements are equal: there is no order to compare.
    """

    mape: float
    spearman: float | None


def fit_predictor(networks: Sequence[MeasuredNetwork]) -> LatencyPredictor:
    """Return the predictor with the least squared relative error on `networks`, without negative coefficients.

    Relative, because what disturbs a measurement lengthens it by a part of itself: absolute errors would let the few
    slowest networks decide.

    Raises:
        DataError: if there are fewer than four networks.
    """
    if len(networks) < _LEAST_NETWORKS:
        raise DataError(
            f"a predictor must be fitted on {_LEAST_NETWORKS} networks or more, not {len(networks)}; "
            f"`tvm-mnas bench` measures another"
        )
    features, ones = _relative_features(networks), np.ones(len(networks))
    best, least = np.zeros(4), float(len(networks))
    for columns in _COLUMN_SETS:
        found = np.linalg.lstsq(features[:, columns], ones, rcond=None)[0]
        error = float(np.sum((features[:, columns] @ found - 1) ** 2))
        if np.all(found >= 0) and error < least:
            best, least = np.zeros(4), error
            best[columns] = found
    return LatencyPredictor(*map(float, best))


def prediction_error(
    predictor: LatencyPredictor, networks: Sequence[MeasuredNetwork]
) -> PredictionError:
    """Return how far `predictor` is off on `networks`; raises `DataError` if there are none."""
    if not networks:
        raise DataError("an error needs one network or more, and there is none; measure one first")
    return _error_of([predictor] * len(networks), networks)


def leave_one_out_error(networks: Sequence[MeasuredNetwork]) -> PredictionError:
    """Return how far off the guess of each network is by the predictor fitted on all the others.

    Raises:
        DataError: if there are fewer than five networks.
    """
    if len(networks) <= _LEAST_NETWORKS:
        raise DataError(
            f"leaving one out needs {_LEAST_NETWORKS + 1} networks or more, not {len(networks)}; "
            f"`tvm-mnas bench` measures another"
        )
    return _error_of(_fitted_without_each(networks), networks)


def _fitted_without_each(networks: Sequence[MeasuredNetwork]) -> list[LatencyPredictor]:
    """Return, for each network, what `fit_predictor` returns for all the others: thousands at once.

    The fit of a set of columns without row i follows from the fit with it, by the row's leverage h and residual r: the
    coefficients lose pinv(X)[:, i] r / (1 - h), the squared error r^2 / (1 - h) (Sherman and Morrison's formula).
    """
    features, ones = _relative_features(networks), np.ones(len(networks))
    best, least = np.zeros_like(features), ones * (len(networks) - 1)
    decides = np.zeros(len(networks), dtype=bool)
    for columns in _COLUMN_SETS:
        chosen = features[:, columns]
        inverse = np.linalg.pinv(chosen, rcond=len(networks) * np.finfo(float).eps)
        found = inverse @ ones
        residuals = ones - chosen @ found
        left = 1 - np.einsum("nk,kn->n", chosen, inverse)
        # A row that alone tells a coefficient: without it that coefficient could be anything.
        decides |= left < _LEAST_LEFT
        shares = residuals / np.maximum(left, _LEAST_LEFT)
        without = np.zeros_like(features)
        without[:, columns] = found - inverse.T * shares[:, None]
        errors = np.sum(residuals**2) - residuals * shares
        better = np.all(without >= 0, axis=1) & (errors < least)
        best[better], least[better] = without[better], errors[better]
    return [
        fit_predictor([*networks[:at], *networks[at + 1 :]])
        if decides[at]
        else LatencyPredictor(*map(float, best[at]))
        for at in range(len(networks))
    ]


def _relative_features(networks: Sequence[MeasuredNetwork]) -> Any:
    """Return what a latency is the sum of, in parts of the measured one: (N,4), to be weighted to ones."""
    features = np.array(
        [[each.kernels_us / 1000, each.calls, each.moved_bytes / 1e6, 1.0] for each in networks]
    )
    return features / np.array([[each.latency_ms] for each in networks])


def _error_of(
    predictors: Sequence[LatencyPredictor], networks: Sequence[MeasuredNetwork]
) -> PredictionError:
    guessed = np.array(
        [
            predictor.predict_ms(each.kernels_us, each.calls, each.moved_bytes)
            for predictor, each in zip(predictors, networks, strict=True)
        ]
    )
    measured = np.array([each.latency_ms for each in networks])
    return PredictionError(
        mape=float(np.mean(np.abs(guessed - measured) / measured)),
        spearman=spearman(guessed.tolist(), measured.tolist()),
    )
