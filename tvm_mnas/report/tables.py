"""Rows of plain values from the trials of a search: what the command line prints and the page shows.

Every function takes the trials of one run and returns dictionaries that `json.dumps` takes as they are. Keys
carry units. A candidate that was met again counts once, under the trial that met it first. Imports neither
torch nor TVM.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import DataError
from tvm_mnas.evaluation.predictor import MeasuredNetwork, fit_predictor, leave_one_out_error
from tvm_mnas.evaluation.results import STAGES, Failure
from tvm_mnas.search.pareto import Point, pareto_front
from tvm_mnas.search.run import TrialRecord

Row: TypeAlias = dict[str, Any]
"""One row of a table: keys to texts, numbers, booleans, lists of those, or None."""

EMULATED = "emulated: not a latency"
"""What stands beside every time that was taken on an emulator."""

_STAGE_SECONDS = ("training_s", "tuning_s", "compiling_s", "measuring_s")


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
    return any(latency.emulated for latency in _latencies(records))


def count_unstable(records: Iterable[TrialRecord]) -> int:
    """Return how many latencies among `records` were measured while the device's clock, heat or speed changed."""
    return sum(bool(latency.warnings) for latency in _latencies(records))


def worst_untuned_percent(records: Iterable[TrialRecord]) -> float:
    """Return the largest part of any latency among `records` that is in untuned kernels, in percent."""
    return max(
        (latency.coverage.untuned_percent or 0.0 for latency in _latencies(records)), default=0.0
    )


def device_keys(records: Iterable[TrialRecord]) -> list[str]:
    """Return the keys of the devices that measured, sorted: one, if all went well."""
    return sorted({latency.device_key for latency in _latencies(records)})


def pareto_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return the Pareto front, the fastest first, a row each as `candidate_row` makes it."""
    return [candidate_row(record) for record in pareto_records(records)]


def candidate_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return every measured candidate, the highest reward first, a row each as `candidate_row` makes it."""
    candidates = sorted(
        measured(records), key=lambda record: (-(record.reward or 0.0), record.number)
    )
    return [candidate_row(record) for record in candidates]


def candidate_row(record: TrialRecord) -> Row:
    """Return what is known of one measured candidate.

    `accuracy_error_percent` is the standard error from the number of images alone, `spread_percent` the
    interquartile range of the samples over their median; `noisy` says that it stayed beyond the profile's bound,
    `untuned_percent` how much of the run time is in kernels without a record, None where unknown, `warnings` why the
    latency may not be the device's usual one: its clock, its heat, its reference kernel.

    Raises:
        ValueError: if the candidate failed; it has no such numbers.
    """
    evaluation = record.evaluation
    accuracy, latency, architecture = (
        evaluation.accuracy,
        evaluation.latency,
        evaluation.architecture,
    )
    cost = evaluation.cost
    if accuracy is None or latency is None or cost is None:
        raise ValueError(f"a row of numbers needs a measured candidate, not trial {record.number}")
    return {
        "trial": record.number,
        "id": architecture.id,
        "accuracy_percent": 100.0 * accuracy.top1,
        "accuracy_error_percent": 100.0 * accuracy.standard_error,
        "latency_ms": latency.latency_ms,
        "spread_percent": 100.0 * latency.spread,
        "noisy": latency.noisy,
        "emulated": latency.emulated,
        "warnings": list(latency.warnings),
        "untuned_percent": latency.coverage.untuned_percent,
        "reward": record.reward,
        "parameters": cost.parameters,
        "mult_adds": cost.mult_adds,
        "architecture": architecture.notation,
    }


def failure_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return the failed candidates grouped by stage, error and reason: in stage order, the most frequent first."""
    trials: defaultdict[Failure, list[int]] = defaultdict(list)
    for record in distinct(records):
        if record.evaluation.failure is not None:
            trials[record.evaluation.failure].append(record.number)
    groups = sorted(
        trials.items(), key=lambda group: (STAGES.index(group[0].stage), -len(group[1]), group[1])
    )
    return [
        {
            "stage": failure.stage,
            "error": failure.error,
            "reason": failure.reason,
            "count": len(numbers),
            "trials": numbers,
        }
        for failure, numbers in groups
    ]


def effort_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return the wall seconds of each stage: in all, their share, and the mean per distinct candidate."""
    efforts = [record.evaluation.effort for record in distinct(records)]
    totals = {name: sum(getattr(effort, name) for effort in efforts) for name in _STAGE_SECONDS}
    whole = sum(totals.values())
    return [
        {
            "stage": name.removesuffix("_s"),
            "total_s": total,
            "share_percent": 100.0 * total / whole if whole else 0.0,
            "per_candidate_s": total / len(efforts) if efforts else 0.0,
        }
        for name, total in totals.items()
    ]


def kernel_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return for each distinct candidate how many kernels it has and how many of them had to be tuned."""
    return [
        {
            "trial": record.number,
            "kernels": record.evaluation.effort.kernels,
            "kernels_tuned": record.evaluation.effort.kernels_tuned,
            "schedules_measured": record.evaluation.effort.schedules_measured,
            "tuning_s": record.evaluation.effort.tuning_s,
        }
        for record in distinct(records)
    ]


def effort_summary(records: Sequence[TrialRecord]) -> Row:
    """Return the whole effort in one row; `kernels_tuned_per_candidate` is a mean over distinct candidates.

    `kernels_reused_percent` is the share of the candidates' kernels that needed no tuning, None if there are none.
    """
    rows = kernel_rows(records)
    kernels = sum(row["kernels"] for row in rows)
    tuned = sum(row["kernels_tuned"] for row in rows)
    return {
        "candidates": len(rows),
        "total_s": sum(row["total_s"] for row in effort_rows(records)),
        "kernels_tuned": tuned,
        "kernels_tuned_per_candidate": tuned / len(rows) if rows else 0.0,
        "tuning_s_per_candidate": sum(row["tuning_s"] for row in rows) / len(rows) if rows else 0.0,
        "kernels_reused_percent": 100.0 * (kernels - tuned) / kernels if kernels else None,
        "schedules_measured": sum(row["schedules_measured"] for row in rows),
    }


def provenance_rows(records: Iterable[TrialRecord]) -> list[Row]:
    """Return how the latencies were measured, a row for each device, fingerprint, target, version and method.

    More than one row means that latencies were compared that should not be. Ranges are `[least, most]`;
    `schedules_per_kernel` are measured schedules per tuned kernel, `tuned_share_percent` the part of the run time
    that is spent in tuned kernels, `reference_ms` what the device's reference kernel took right after each latency;
    they are None where no latency of the row knows. `doubtful` counts the latencies after which the device had changed.
    """
    groups: defaultdict[tuple[Any, ...], list[Latency]] = defaultdict(list)
    for latency in _latencies(records):
        key = (
            latency.device_key,
            latency.fingerprint,
            latency.target,
            latency.tvm_version,
            latency.method,
            latency.emulated,
        )
        groups[key].append(latency)
    return [_provenance(latencies) for latencies in groups.values()]


def forecast_row(records: Sequence[TrialRecord]) -> Row | None:
    """Return how well latencies follow from kernels timed one by one; None where that cannot be told.

    It is fitted on the measured candidates that know their kernels' times: four or more, of one device in one
    state. Each is then guessed by what the others tell (`error_percent` is the mean absolute one, None for four).
    A reward never had anything of it.
    """
    if is_emulated(records) or len(provenance_rows(records)) > 1:
        return None
    latencies: list[Latency] = []
    networks: list[MeasuredNetwork] = []
    try:
        for record in measured(records):
            effort, latency = record.evaluation.effort, record.evaluation.latency
            if (
                latency is None
                or effort.kernels_us is None
                or effort.kernel_calls is None
                or effort.moved_bytes is None
            ):
                continue
            latencies.append(latency)
            networks.append(
                MeasuredNetwork(
                    effort.kernels_us, effort.kernel_calls, effort.moved_bytes, latency.latency_ms
                )
            )
        predictor = fit_predictor(networks)
    except DataError:
        return None
    row: Row = {
        "candidates": len(networks),
        "noisy": sum(latency.noisy for latency in latencies),
        **asdict(predictor),
        "formula": predictor.formula,
        "error_percent": None,
        "spearman": None,
    }
    if len(networks) > 4:
        error = leave_one_out_error(networks)
        row |= {"error_percent": 100.0 * error.mape, "spearman": error.spearman}
    return row


def forecast_line(row: Row) -> str:
    """Return what `forecast_row` found in a sentence."""
    text = (
        f"a forecast, which no reward used: latency in ms = {row['formula']}, "
        f"fitted on {row['candidates']} candidates"
    )
    if row["noisy"]:
        text += f", {row['noisy']} of them measured with a spread beyond the profile's"
    if row["error_percent"] is None:
        return f"{text}; too few to tell how far it is off"
    rank = "undefined" if row["spearman"] is None else f"{row['spearman']:.3f}"
    return (
        f"{text}; each guessed by the others alone: mean absolute error {row['error_percent']:.1f}%, "
        f"rank correlation (Spearman) {rank}"
    )


def _provenance(latencies: Sequence[Latency]) -> Row:
    first = latencies[0]
    spreads = [100.0 * latency.spread for latency in latencies]
    coverages = [latency.coverage for latency in latencies]
    per_kernel = [c.schedules / c.tuned_kernels for c in coverages if c.tuned_kernels]
    shares = [100.0 * c.tuned_share for c in coverages if c.tuned_share is not None]
    moments = sorted(latency.measured_at for latency in latencies)
    return {
        "device": first.device_key,
        "fingerprint": first.fingerprint,
        "target": first.target,
        "tvm_version": first.tvm_version,
        "method": first.method,
        "emulated": first.emulated,
        "latencies": len(latencies),
        "samples": _range([len(latency.samples_ms) for latency in latencies]),
        "median_spread_percent": statistics.median(spreads),
        "worst_spread_percent": max(spreads),
        "noisy": sum(latency.noisy for latency in latencies),
        "unstable": sum(bool(latency.warnings) for latency in latencies),
        "reference_ms": _range([x.reference_ms for x in latencies if x.reference_ms is not None]),
        "schedules_per_kernel": _range(per_kernel),
        "tuned_share_percent": _range(shares),
        "measured_at": [moments[0], moments[-1]],
    }


def _latencies(records: Iterable[TrialRecord]) -> list[Latency]:
    return [r.evaluation.latency for r in distinct(records) if r.evaluation.latency is not None]


def _range(values: Sequence[float]) -> list[float] | None:
    return [min(values), max(values)] if values else None
