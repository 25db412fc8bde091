"""How alike two orders are, and how much of an order by accuracy is noise.

The accuracy of a short training has a noise over seeds, beside the spread between candidates.

Candidates that were trained twice, with two seeds, tell the noise; all of them tell the spread.

    noise^2     = mean of (first - second)^2 / 2                  over those trained twice
    spread^2    = variance of the accuracies                      over all, the noise included
    reliability = 1 - noise^2 / spread^2                          the intraclass correlation (Fisher 1925)
    correlation of an accuracy with its mean over seeds = sqrt(reliability)
    Spearman's of two normal variables whose correlation is r = 6 / pi * asin(r / 2)     (Pearson 1907)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_mnas.errors import RunError

LEAST_PAIRS = 3
"""Fewer candidates trained twice tell nothing of the noise."""
ENOUGH = 0.7
"""A rank correlation below this is too low to choose a network by."""
_NORMAL_95 = 1.6449


def ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return each value's rank, the smallest 0; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    result: npt.NDArray[np.float64] = below + (equal - 1) / 2
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, None where one side is all equal: there is no order to compare."""
    one, two = ranks(first), ranks(second)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(np.corrcoef(one, two)[0, 1])


def signed_rank_p(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the p of Wilcoxon's signed-rank test that two things do alike over the same seeds; 1 if all are equal."""
    from scipy.stats import wilcoxon

    if all(one == other for one, other in zip(ours, theirs, strict=True)):
        return 1.0
    return float(wilcoxon(ours, theirs).pvalue)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyNoise:
    """Standard deviations of accuracies, shares in 0..1: of one candidate's over seeds, and of all candidates'.

    `pairs` candidates of `candidates` were trained twice. Raises `RunError` where that cannot be.
    """

    noise: float
    spread: float
    pairs: int
    candidates: int

    def __post_init__(self) -> None:
        if not (0 <= self.noise <= 1 and 0 <= self.spread <= 1):
            raise RunError(
                f"noise and spread of accuracies are in 0..1, not {self.noise} and {self.spread}"
            )
        if not LEAST_PAIRS <= self.pairs <= self.candidates:
            raise RunError(
                f"the noise is known from {LEAST_PAIRS} candidates or more, each of a search's, not from {self.pairs} "
                f"of {self.candidates}"
            )

    @property
    def rank_correlation(self) -> float:
        """Spearman's between the candidates' order and the one that the means over many seeds would give."""
        return _rank_correlation(self.noise, self.spread)

    @property
    def rank_correlation_range(self) -> tuple[float, float]:
        """The 90% interval of `rank_correlation`, since few pairs tell the noise roughly."""
        # The squared noise is chi-square distributed; quantiles by Wilson and Hilferty (1931).
        few = 2 / (9 * self.pairs)
        low, high = (
            max(1 - few + sign * _NORMAL_95 * math.sqrt(few), 1e-3) ** 1.5 for sign in (-1, 1)
        )
        return (
            _rank_correlation(self.noise / low, self.spread),
            _rank_correlation(self.noise / high, self.spread),
        )

    def to_json(self) -> dict[str, float]:
        """Return plain JSON values, what follows from the fields included; `from_json` reads the fields back."""
        low, high = self.rank_correlation_range
        return {
            "noise": self.noise,
            "spread": self.spread,
            "pairs": self.pairs,
            "candidates": self.candidates,
            "rank_correlation": self.rank_correlation,
            "rank_correlation_low": low,
            "rank_correlation_high": high,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> AccuracyNoise:
        """Return the noise that `to_json` wrote.

        Raises:
            RunError: if it is not whole.
        """
        try:
            return cls(
                noise=float(values["noise"]),  # type: ignore[arg-type]  # a TypeError is told
                spread=float(values["spread"]),  # type: ignore[arg-type]
                pairs=int(values["pairs"]),  # type: ignore[call-overload]
                candidates=int(values["candidates"]),  # type: ignore[call-overload]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the noise of the accuracies cannot be read ({error!r})") from error


def accuracy_noise(
    accuracies: Sequence[float], pairs: Sequence[tuple[float, float]]
) -> AccuracyNoise | None:
    """Return the noise that `pairs` of accuracies of one candidate each tell, beside the spread of all `accuracies`.

    None where there are too few of them to tell.
    """
    if len(pairs) < LEAST_PAIRS or len(accuracies) < len(pairs):
        return None
    return AccuracyNoise(
        noise=math.sqrt(statistics.fmean((one - two) ** 2 for one, two in pairs) / 2),
        spread=statistics.stdev(accuracies),
        pairs=len(pairs),
        candidates=len(accuracies),
    )


def _rank_correlation(noise: float, spread: float) -> float:
    if spread == 0:
        return 0.0
    reliability = max(0.0, 1 - (noise / spread) ** 2)
    return 6 / math.pi * math.asin(math.sqrt(reliability) / 2)
