"""What candidates cost and how well that is predicted, counted and told: `candidates.py` measures it.

No script of its own, and nothing here takes a time: everything follows from the costs and what `alone.py` found.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alone import WITHIN, Alone, StockSample
from alone import table as table_alone

ENDS = 10
"""How many candidates count as the first, and as the last."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one candidate took: its kernels, those tuned for it, seconds by part; no latency if it failed.

    `kernels_us` is the sum of its `calls` of kernels by the records that it was compiled from, `moved_bytes` what
    they read and write; `noisy` says that the latency's spread stayed beyond the profile's bound.
    """

    architecture: str
    kernels: int
    tuned: int
    schedules: int
    tuning_s: float
    other_s: float
    latency_ms: float | None
    failure: str | None = None
    kernels_us: float | None = None
    calls: int = 0
    moved_bytes: int = 0
    noisy: bool = False

    @property
    def in_all_s(self) -> float:
        """Seconds from the notation to the latency."""
        return self.tuning_s + self.other_s


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predictor fitted on some candidates, and how far it is off on `held_out` others (`mape` in 0..1)."""

    fitted_on: int
    held_out: int
    kernels_factor: float
    call_ms: float
    megabyte_ms: float
    network_ms: float
    formula: str
    mape: float
    spearman: float | None


def predict(costs: Sequence[Cost]) -> Prediction | str:
    """Fit a predictor on every other candidate with a latency and try it on the rest; a text tells why not."""
    from tvm_mnas.errors import DataError
    from tvm_mnas.evaluation.predictor import MeasuredNetwork, fit_predictor, prediction_error

    networks = [
        MeasuredNetwork(one.kernels_us, one.calls, one.moved_bytes, one.latency_ms)
        for one in costs
        if one.latency_ms is not None and one.kernels_us is not None
    ]
    fitted_on, held_out = networks[::2], networks[1::2]
    try:
        predictor = fit_predictor(fitted_on)
        error = prediction_error(predictor, held_out)
    except DataError as reason:
        return str(reason)
    return Prediction(
        fitted_on=len(fitted_on),
        held_out=len(held_out),
        **asdict(predictor),
        formula=predictor.formula,
        mape=error.mape,
        spearman=error.spearman,
    )


def ends_of(costs: Sequence[Cost]) -> dict[str, Sequence[Cost]]:
    """Return the first candidates, the last, and all, by name."""
    ends = min(ENDS, len(costs))
    return {f"first {ends}": costs[:ends], f"last {ends}": costs[-ends:], "all": costs}


def table(costs: Sequence[Cost]) -> str:
    """Return a markdown table: the first candidates, the last, and all."""
    lines = [
        "| candidates | kernels tuned for each | tuning s each | the rest s each | in all s each |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, part in ends_of(costs).items():
        lines.append(
            f"| {name} | {statistics.fmean(one.tuned for one in part):.1f} | "
            f"{statistics.fmean(one.tuning_s for one in part):.1f} | "
            f"{statistics.fmean(one.other_s for one in part):.1f} | "
            f"{statistics.fmean(one.in_all_s for one in part):.1f} |"
        )
    return "\n".join(lines)


def stock_ratios(costs: Sequence[Cost], stock_s: float) -> dict[str, dict[str, float | None]]:
    """Return how many times as long stock takes for a candidate as ours, for the first candidates, the last and all.

    `stock_s` is what stock takes to tune one. "tuning" compares that alone and is None where ours tuned nothing;
    "in all" adds what ours takes for the rest, from notation to latency, to both.
    """
    ratios: dict[str, dict[str, float | None]] = {}
    for name, part in ends_of(costs).items():
        tuned = any(one.tuned for one in part)
        tuning_s = statistics.fmean(one.tuning_s for one in part)
        other_s = statistics.fmean(one.other_s for one in part)
        ratios[name] = {
            "tuning": stock_s / tuning_s if tuned else None,
            "in all": (stock_s + other_s) / (tuning_s + other_s),
        }
    return ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one run found; a text stands for what it did not do, and says why."""

    setting: str
    costs: Sequence[Cost]
    distinct: int
    found: int
    prediction: Prediction | str
    alone: Sequence[Alone] | str
    stock: StockSample | str

    @property
    def ratios(self) -> dict[str, dict[str, float | None]] | str:
        """Stock's time for a candidate by ours, or why that cannot be told."""
        if isinstance(self.stock, str):
            return self.stock
        if self.found:
            return f"{self.found} kernels were found tuned: what ours takes from the start is not known"
        return stock_ratios(self.costs, self.stock.per_candidate_s)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what was not done is a text under its name in "skipped"."""
        parts: dict[str, Any] = {
            "prediction": self.prediction,
            "alone": self.alone,
            "stock": self.stock,
            "stock_ratios": self.ratios,
        }
        skipped = {name: part for name, part in parts.items() if isinstance(part, str)}
        document: dict[str, Any] = {
            "setting": self.setting,
            "candidates": [asdict(cost) for cost in self.costs],
            "kernels": sum(cost.kernels for cost in self.costs),
            "distinct_kernels": self.distinct,
            "found_tuned": self.found,
            "tuned_kernels": sum(cost.tuned for cost in self.costs),
            "schedules": sum(cost.schedules for cost in self.costs),
            "skipped": skipped,
            **dict.fromkeys(parts),
        }
        if isinstance(self.prediction, Prediction):
            document["prediction"] = asdict(self.prediction)
        if not isinstance(self.alone, str):
            document["alone"] = [one.to_json() for one in self.alone]
        if not isinstance(self.stock, str):
            document["stock"] = self.stock.to_json()
        if not isinstance(self.ratios, str):
            document["stock_ratios"] = self.ratios
        return document

    def text(self) -> str:
        """Return everything for people, in markdown."""
        costs = self.costs
        return "\n\n".join(
            [
                self.setting,
                f"kernels in all {sum(cost.kernels for cost in costs)}, distinct {self.distinct}, "
                f"tuned {sum(cost.tuned for cost in costs)} with "
                f"{sum(cost.schedules for cost in costs)} schedules; "
                f"{sum(cost.failure is not None for cost in costs)} candidates failed, the latencies of "
                f"{sum(cost.noisy for cost in costs)} spread beyond the profile's bound",
                *(
                    [
                        f"{self.found} of the distinct kernels were found tuned: the times below are not those "
                        f"of empty records, and the first candidates do not compare with the last"
                    ]
                    if self.found
                    else []
                ),
                table(costs),
                self._prediction_text(),
                self._alone_text(),
                self._stock_text(),
            ]
        )

    def _prediction_text(self) -> str:
        one = self.prediction
        if isinstance(one, str):
            return f"Predictor: skipped; {one}"
        rank = "none: all equal" if one.spearman is None else f"{one.spearman:.3f}"
        return (
            f"Predictor, fitted on {one.fitted_on} candidates: latency in ms = {one.formula}; on the "
            f"{one.held_out} others its mean absolute percentage error is {one.mape:.2%}, its rank correlation "
            f"(Spearman) {rank}"
        )

    def _alone_text(self) -> str:
        if isinstance(self.alone, str):
            return f"Tuned alone: skipped; {self.alone}"
        ratios = [one.ratio for one in self.alone if one.ratio is not None]
        near = sum(ratio <= 1 + WITHIN for ratio in ratios)
        return (
            f"Tuned alone by ours from an empty store with another seed, both then timed in turn: {near} of "
            f"{len(self.alone)} from shared records are no more than {WITHIN:.0%} slower\n\n"
            f"{table_alone(self.alone)}"
        )

    def _stock_text(self) -> str:
        stock = self.stock
        if isinstance(stock, str):
            return f"Stock MetaSchedule: skipped; {stock}"
        lines = [
            f"Stock MetaSchedule on a sample of {len(stock.kernels)} of the {stock.distinct} kernels of the "
            f"candidates tuned alone, {stock.schedules} schedules, {stock.ran} with one that ran:",
            *(f"  {name}" for name in stock.kernels),
            f"its start {stock.start_s:.1f} s, then {stock.per_kernel_s:.1f} s a kernel; extrapolated to the "
            f"{statistics.fmean(stock.networks):.1f} kernels of a candidate: {stock.per_candidate_s:.0f} s each",
        ]
        if isinstance(self.ratios, str):
            return "\n".join([*lines, f"ratio to ours: skipped; {self.ratios}"])
        lines += [
            "",
            "| candidates | stock / ours, tuning | stock / ours, notation to latency |",
            "| --- | ---: | ---: |",
        ]
        for name, ratio in self.ratios.items():
            tuning = "nothing tuned" if ratio["tuning"] is None else f"{ratio['tuning']:.1f}"
            lines.append(f"| {name} | {tuning} | {ratio['in all']:.1f} |")
        return "\n".join(lines)
