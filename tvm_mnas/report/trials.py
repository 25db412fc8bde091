"""Which of a search's trials count, and what stands out among them: the front, the best, the failed, the doubtful.

Every function takes the trials of one run. A candidate that was met again counts once, under the trial that met it
first. Imports neither torch nor TVM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.search.pareto import Point, pareto_front
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION

EMULATED = "emulated: not a latency"
"""What stands beside every time that was taken on an emulator."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many trials there are, how many distinct candidates they met, and what became of those."""

    trials: int
    candidates: int
    measured: int
    failed: int


def distinct(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that met their candidate first."""
    return [record for record in records if record.repeats is None]


def measured(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the distinct candidates that have an accuracy and a latency."""
    return [record for record in distinct(records) if record.evaluation.objectives is not None]


def pareto_records(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the measured candidates that no other one dominates, the fastest first."""
    candidates = measured(records)
    points = [
        Point(*record.evaluation.objectives)
        for record in candidates
        if record.evaluation.objectives
    ]
    return [candidates[index] for index in pareto_front(points)]


def best_record(records: Sequence[TrialRecord], best: int | None = None) -> TrialRecord | None:
    """Return the measured trial numbered `best`, else the candidate with the highest reward, else None."""
    for record in records:
        if record.number == best and record.reward is not None:
            return record
    # Of equal rewards the first one met: max keeps it.
    return max(
        (record for record in measured(records) if record.reward is not None),
        key=lambda record: record.reward or 0.0,
        default=None,
    )


def count_trials(records: Sequence[TrialRecord]) -> Counts:
    """Return how many trials, distinct candidates, measurements and failures `records` hold."""
    candidates, successes = len(distinct(records)), len(measured(records))
    return Counts(len(records), candidates, successes, candidates - successes)


def is_emulated(records: Iterable[TrialRecord]) -> bool:
    """Return whether any time among `records` was taken on an emulator."""
    return any(latency.emulated for latency in latencies_of(records))


def count_unstable(records: Iterable[TrialRecord]) -> int:
    """Return how many latencies among `records` were measured while the device's clock, heat or speed changed."""
    return sum(bool(latency.warnings) for latency in latencies_of(records))


def worst_untuned_percent(records: Iterable[TrialRecord]) -> float:
    """Return the largest part of any latency among `records` that is in untuned kernels, in percent."""
    return max(
        (latency.coverage.untuned_percent or 0.0 for latency in latencies_of(records)), default=0.0
    )


def device_keys(records: Iterable[TrialRecord]) -> list[str]:
    """Return the keys of the devices that measured, sorted: one, if all went well."""
    return sorted({latency.device_key for latency in latencies_of(records)})


def latencies_of(records: Iterable[TrialRecord]) -> list[Latency]:
    """Return the latencies of the distinct candidates that have one."""
    return [r.evaluation.latency for r in distinct(records) if r.evaluation.latency is not None]


def accuracy_name(records: Sequence[TrialRecord]) -> str:
    """Return what an axis of the accuracies of `records` is called."""
    found = {r.evaluation.accuracy.metric for r in records if r.evaluation.accuracy is not None}
    return "mAP (%)" if MEAN_AVERAGE_PRECISION in found else "top-1 accuracy (%)"
