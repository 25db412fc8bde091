"""What the command line prints and the page shows of a search, as rows with units in their names.

Every function takes the trials of one run. A candidate that was met again counts once, under the trial that met it
first. `SCHEMA_VERSION` is that of the rows in a `--json` document. Imports neither torch nor TVM.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import DataError
from tvm_mnas.evaluation.predictor import (
    LatencyPredictor,
    MeasuredNetwork,
    fit_predictor,
    leave_one_out_error,
)
from tvm_mnas.evaluation.results import STAGES, Failure
from tvm_mnas.report.trials import distinct, is_emulated, latencies_of, measured, pareto_records
from tvm_mnas.search.run import TrialRecord

SCHEMA_VERSION = 1
"""Rises when a key changes its meaning; a new key alone does not raise it."""

Range: TypeAlias = tuple[float, float]
"""The least and the most of several values."""

_STAGE_SECONDS = ("training_s", "tuning_s", "compiling_s", "measuring_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """What is known of one measured candidate.

    `accuracy_error_percent` is the standard error from the number of images alone, `spread_percent` the
    interquartile range of the samples over their median; `noisy` says that it stayed beyond the profile's bound,
    `untuned_percent` how much of the run time is in kernels without a record, None where unknown, `warnings` why the
    latency may not be the device's usual one: its clock, its heat, its reference kernel. `first_latency_ms` is what the
    search learned from, where the candidate was measured again after it.
    """

    trial: int
    id: str
    accuracy_percent: float
    accuracy_error_percent: float
    latency_ms: float
    first_latency_ms: float | None
    spread_percent: float
    noisy: bool
    emulated: bool
    warnings: tuple[str, ...]
    untuned_percent: float | None
    reward: float
    parameters: int
    mult_adds: int
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """The candidates that failed for one reason, by the numbers of their trials."""

    stage: str
    error: str
    reason: str
    count: int
    trials: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortRow:
    """The wall seconds of a stage: in all, their share, and the mean per distinct candidate."""

    stage: str
    total_s: float
    share_percent: float
    per_candidate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """How many kernels a candidate has, and how many of them had to be tuned."""

    trial: int
    kernels: int
    kernels_tuned: int
    schedules_measured: int
    tuning_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortSummary:
    """The whole effort; `kernels_tuned_per_candidate` is a mean over distinct candidates.

    `kernels_reused_percent` is the share of the candidates' kernels that needed no tuning, None if there are none.
    """

    candidates: int
    total_s: float
    kernels_tuned: int
    kernels_tuned_per_candidate: float
    tuning_s_per_candidate: float
    kernels_reused_percent: float | None
    schedules_measured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceRow:
    """How latencies of one device, fingerprint, target, precision, version and method were measured.

    `schedules_per_kernel` are measured schedules per tuned kernel, `tuned_share_percent` the part of the run time
    that is spent in tuned kernels, `reference_ms` what the device's reference kernel took right after each latency;
    they are None where no latency of the row knows. `unstable` counts the latencies after which the device had changed,
    `by_device` those of each device of the farm, as far as it is known.
    """

    device: str
    fingerprint: str
    target: str
    precision: str
    tvm_version: str
    method: str
    emulated: bool
    latencies: int
    samples: Range
    median_spread_percent: float
    worst_spread_percent: float
    noisy: int
    unstable: int
    reference_ms: Range | None
    schedules_per_kernel: Range | None
    tuned_share_percent: Range | None
    measured_at: tuple[str, str]
    by_device: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyForecast:
    """How well latencies follow from kernels timed one by one.

    `predictor` is fitted on so many `candidates`, `noisy` of them measured with a spread beyond the profile's. Each was
    then guessed by what the others tell: `error_percent` is the mean absolute error, `spearman` the rank correlation,
    both None where there are too few.
    """

    candidates: int
    noisy: int
    predictor: LatencyPredictor
    error_percent: float | None = None
    spearman: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the predictor's coefficients beside the rest."""
        values = asdict(self)
        coefficients = values.pop("predictor")
        return {**values, **coefficients, "formula": self.predictor.formula}


def pareto_rows(records: Iterable[TrialRecord]) -> list[CandidateRow]:
    """Return the Pareto front, the fastest first, a row each as `candidate_row` makes it."""
    return [candidate_row(record) for record in pareto_records(records)]


def candidate_rows(records: Iterable[TrialRecord]) -> list[CandidateRow]:
    """Return every measured candidate, the highest reward first, a row each as `candidate_row` makes it."""
    candidates = sorted(
        measured(records), key=lambda record: (-(record.reward or 0.0), record.number)
    )
    return [candidate_row(record) for record in candidates]


def candidate_row(record: TrialRecord) -> CandidateRow:
    """Return what is known of one measured candidate.

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
    if accuracy is None or latency is None or cost is None or record.reward is None:
        raise ValueError(f"a row of numbers needs a measured candidate, not trial {record.number}")
    return CandidateRow(
        trial=record.number,
        id=architecture.id,
        accuracy_percent=100.0 * accuracy.top1,
        accuracy_error_percent=100.0 * accuracy.standard_error,
        latency_ms=latency.latency_ms,
        first_latency_ms=None if record.first_latency is None else record.first_latency.latency_ms,
        spread_percent=100.0 * latency.spread,
        noisy=latency.noisy,
        emulated=latency.emulated,
        warnings=latency.warnings,
        untuned_percent=latency.coverage.untuned_percent,
        reward=record.reward,
        parameters=cost.parameters,
        mult_adds=cost.mult_adds,
        architecture=architecture.notation,
    )


def failure_rows(records: Iterable[TrialRecord]) -> list[FailureRow]:
    """Return the failed candidates grouped by stage, error and reason: in stage order, the most frequent first."""
    trials: defaultdict[Failure, list[int]] = defaultdict(list)
    for record in distinct(records):
        if record.evaluation.failure is not None:
            trials[record.evaluation.failure].append(record.number)
    groups = sorted(
        trials.items(), key=lambda group: (STAGES.index(group[0].stage), -len(group[1]), group[1])
    )
    return [
        FailureRow(
            stage=failure.stage,
            error=failure.error,
            reason=failure.reason,
            count=len(numbers),
            trials=tuple(numbers),
        )
        for failure, numbers in groups
    ]


def effort_rows(records: Iterable[TrialRecord]) -> list[EffortRow]:
    """Return the wall seconds of each stage: in all, their share, and the mean per distinct candidate."""
    efforts = [record.evaluation.effort for record in distinct(records)]
    totals = {name: sum(getattr(effort, name) for effort in efforts) for name in _STAGE_SECONDS}
    whole = sum(totals.values())
    return [
        EffortRow(
            stage=name.removesuffix("_s"),
            total_s=total,
            share_percent=100.0 * total / whole if whole else 0.0,
            per_candidate_s=total / len(efforts) if efforts else 0.0,
        )
        for name, total in totals.items()
    ]


def kernel_rows(records: Iterable[TrialRecord]) -> list[KernelRow]:
    """Return for each distinct candidate how many kernels it has and how many of them had to be tuned."""
    return [
        KernelRow(
            trial=record.number,
            kernels=record.evaluation.effort.kernels,
            kernels_tuned=record.evaluation.effort.kernels_tuned,
            schedules_measured=record.evaluation.effort.schedules_measured,
            tuning_s=record.evaluation.effort.tuning_s,
        )
        for record in distinct(records)
    ]


def effort_summary(records: Sequence[TrialRecord]) -> EffortSummary:
    """Return the whole effort."""
    rows = kernel_rows(records)
    kernels = sum(row.kernels for row in rows)
    tuned = sum(row.kernels_tuned for row in rows)
    return EffortSummary(
        candidates=len(rows),
        total_s=sum(row.total_s for row in effort_rows(records)),
        kernels_tuned=tuned,
        kernels_tuned_per_candidate=tuned / len(rows) if rows else 0.0,
        tuning_s_per_candidate=sum(row.tuning_s for row in rows) / len(rows) if rows else 0.0,
        kernels_reused_percent=100.0 * (kernels - tuned) / kernels if kernels else None,
        schedules_measured=sum(row.schedules_measured for row in rows),
    )


def provenance_rows(records: Iterable[TrialRecord]) -> list[ProvenanceRow]:
    """Return how the latencies were measured, a row for each device, fingerprint, target, precision and version.

    More than one row means that latencies were compared that should not be.
    """
    groups: defaultdict[tuple[Any, ...], list[Latency]] = defaultdict(list)
    for latency in latencies_of(records):
        key = (
            latency.device_key,
            latency.fingerprint,
            latency.target,
            latency.precision,
            latency.tvm_version,
            latency.method,
            latency.emulated,
        )
        groups[key].append(latency)
    return [_provenance(latencies) for latencies in groups.values()]


def forecast_latency(records: Sequence[TrialRecord]) -> LatencyForecast | None:
    """Return how well latencies follow from kernels timed one by one; None where that cannot be told.

    It is fitted on the measured candidates that know their kernels' times: four or more, of one device in one
    state. A reward never had anything of it.
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
    error = leave_one_out_error(networks) if len(networks) > 4 else None
    return LatencyForecast(
        candidates=len(networks),
        noisy=sum(latency.noisy for latency in latencies),
        predictor=predictor,
        error_percent=None if error is None else 100.0 * error.mape,
        spearman=None if error is None else error.spearman,
    )


def _provenance(latencies: Sequence[Latency]) -> ProvenanceRow:
    first = latencies[0]
    spreads = [100.0 * latency.spread for latency in latencies]
    coverages = [latency.coverage for latency in latencies]
    per_kernel = [c.schedules / c.tuned_kernels for c in coverages if c.tuned_kernels]
    shares = [100.0 * c.tuned_share for c in coverages if c.tuned_share is not None]
    counts = [len(latency.samples_ms) for latency in latencies]
    moments = sorted(latency.measured_at for latency in latencies)
    named = Counter(x.device_name for x in latencies if x.device_name is not None)
    return ProvenanceRow(
        device=first.device_key,
        fingerprint=first.fingerprint,
        target=first.target,
        precision=str(first.precision),
        tvm_version=first.tvm_version,
        method=first.method,
        emulated=first.emulated,
        latencies=len(latencies),
        samples=(min(counts), max(counts)),
        median_spread_percent=statistics.median(spreads),
        worst_spread_percent=max(spreads),
        noisy=sum(latency.noisy for latency in latencies),
        unstable=sum(bool(latency.warnings) for latency in latencies),
        reference_ms=_range([x.reference_ms for x in latencies if x.reference_ms is not None]),
        schedules_per_kernel=_range(per_kernel),
        tuned_share_percent=_range(shares),
        measured_at=(moments[0], moments[-1]),
        by_device=dict(sorted(named.items())),
    )


def _range(values: Sequence[float]) -> Range | None:
    return (min(values), max(values)) if values else None
