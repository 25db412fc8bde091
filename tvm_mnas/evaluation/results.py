"""What is known of one candidate: its accuracy and its latency, or the reason why it has neither.

An `Evaluation` is what a search stores per trial and what everything after the search reads. A failed
candidate has a `Failure` and never a number, so that no failure can become a reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import TvmMnasError
from tvm_mnas.models.cost import Cost, count_cost
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.space.catalogue import Space
from tvm_mnas.training.accuracy import Accuracy

STAGES = ("training", "lowering", "tuning", "compiling", "measuring")
"""The stages of an evaluation, in order."""

_RENAMED = {"tuning_trials": "schedules_measured"}
"""What evaluations stored by version 0.1 call a field of `Effort`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no result: the stage it failed in, the kind of error and its one-line message."""

    stage: str
    error: str
    reason: str

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"a stage must be one of {', '.join(STAGES)}, not {self.stage!r}")
        if not self.reason:
            raise ValueError("a failure must have a reason; this one is empty")

    @classmethod
    def of(cls, stage: str, error: TvmMnasError) -> Failure:
        """Return the failure that `error`, raised in `stage`, means."""
        return cls(stage, type(error).__name__, " ".join(str(error).split()) or "no message")


@dataclass(frozen=True, slots=True)
class Effort:
    """What an evaluation cost: wall seconds per stage, and the kernels and trials that tuning took.

    `kernels` is the number of distinct kernels of the candidate, `kernels_tuned` how many of them no record
    existed for, `schedules_measured` the schedules measured for those. Where several candidates share a tuning
    round, its seconds are split by the kernels that each brought.

    `kernel_calls` is how many kernels one run of the network calls, `kernels_us` what they take one by one by the
    records that it was compiled from, `moved_bytes` what they read and write: a forecast's material. None where it got
    no latency, or an older version ran.
    """

    training_s: float = 0.0
    tuning_s: float = 0.0
    compiling_s: float = 0.0
    measuring_s: float = 0.0
    kernels: int = 0
    kernels_tuned: int = 0
    schedules_measured: int = 0
    kernel_calls: int | None = None
    kernels_us: float | None = None
    moved_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            kind = int if isinstance(field.default, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < math.inf:
                raise ValueError(f"{field.name} must be a number, 0 or more, not {value!r}")

    def plus(self, later: Effort) -> Effort:
        """Return the effort of two attempts at one candidate, of which `later` says what the network is."""
        return replace(
            later,
            training_s=self.training_s + later.training_s,
            tuning_s=self.tuning_s + later.tuning_s,
            compiling_s=self.compiling_s + later.compiling_s,
            measuring_s=self.measuring_s + later.measuring_s,
            kernels_tuned=self.kernels_tuned + later.kernels_tuned,
            schedules_measured=self.schedules_measured + later.schedules_measured,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one candidate: accuracy and latency, or a failure."""

    architecture: Candidate
    accuracy: Accuracy | None
    latency: Latency | None
    failure: Failure | None
    effort: Effort
    counted: Cost | None = None
    """What the network was counted to cost, where that does not follow from the notation."""

    def __post_init__(self) -> None:
        if self.failure is None:
            legal = self.accuracy is not None and self.latency is not None
        else:
            legal = self.latency is None
        if not legal:
            raise ValueError("an evaluation has accuracy and latency, or a failure, and never both")
        known = isinstance(self.architecture, Architecture) or self.counted is not None
        if self.failure is None and not known:
            raise ValueError(
                f"an evaluation of {self.architecture} must tell its cost, which does not follow from the notation"
            )

    @classmethod
    def success(
        cls,
        architecture: Candidate,
        accuracy: Accuracy,
        latency: Latency,
        effort: Effort,
        counted: Cost | None = None,
    ) -> Evaluation:
        """Return the evaluation of a candidate that was trained, compiled and measured."""
        return cls(architecture, accuracy, latency, None, effort, counted)

    @classmethod
    def failed(
        cls,
        architecture: Candidate,
        failure: Failure,
        effort: Effort,
        accuracy: Accuracy | None = None,
    ) -> Evaluation:
        """Return the evaluation of a candidate that failed; an accuracy known before stays with it."""
        return cls(architecture, accuracy, None, failure, effort)

    @property
    def objectives(self) -> tuple[float, float] | None:
        """Accuracy in 0..1 and latency in ms, or None for a failed candidate."""
        if self.accuracy is None or self.latency is None:
            return None
        return self.accuracy.top1, self.latency.latency_ms

    @property
    def cost(self) -> Cost | None:
        """Parameters and mult-adds; None for a candidate of one's own that was never built."""
        if isinstance(self.architecture, Architecture):
            return count_cost(self.architecture)
        return self.counted

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads back to an equal evaluation."""
        counted = {} if self.counted is None else {"counted": asdict(self.counted)}
        return {
            "architecture": self.architecture.notation,
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "latency": self.latency.to_dict() if self.latency else None,
            "failure": asdict(self.failure) if self.failure else None,
            "effort": {
                name: value for name, value in asdict(self.effort).items() if value is not None
            },
            **counted,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, TvmMnasError: if the values are of another form.
        """
        accuracy, latency, failure = (values[key] for key in ("accuracy", "latency", "failure"))
        return cls(
            architecture=parse_candidate(values["architecture"]),
            accuracy=Accuracy.from_json(accuracy) if accuracy else None,
            latency=Latency.from_dict(latency) if latency else None,
            failure=Failure(**failure) if failure else None,
            effort=Effort(**{_RENAMED.get(k, k): v for k, v in values["effort"].items()}),
            counted=Cost(**values["counted"]) if "counted" in values else None,
        )


def format_duration(duration_s: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min` or `3.4 h`."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    if duration_s < 90 * 60:
        return f"{duration_s / 60:.0f} min"
    return f"{duration_s / 3600:.1f} h"


class Observer(Protocol):
    """Is told what an evaluator does, so that somebody can watch it."""

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` steps of the stage `name` are finished."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


class CandidateSource(Protocol):
    """Where an evaluator takes its candidates from while a search goes on."""

    def take(self, most: int | None = None) -> list[Candidate]:
        """Return the candidates that wait, `most` of them at most.

        None waits: there may be some after the next evaluation, or if nothing is under way, there are no more.
        """
        ...


@runtime_checkable
class StreamEvaluator(Protocol):
    """Turns candidates into evaluations as they come, without waiting for a batch."""

    def stream(self, source: CandidateSource) -> Iterator[tuple[Candidate, Evaluation]]:
        """Yield each candidate of `source` with its evaluation, as each is done, in any order, until there are no more.

        Raises:
            DeviceError: if the device stays lost; the candidates not yet yielded are then unevaluated.
        """
        ...


@dataclass(frozen=True, slots=True)
class EvaluatorRequest:
    """What an evaluator of a search is asked for: the search's configuration, and its space."""

    config: SearchConfig
    space: Space


class Evaluator(Protocol):
    """Turns candidates into evaluations; `pipeline.py` has the real one, `tables/` one that looks them up.

    One of your own is named by `--evaluator`: a function that takes an `EvaluatorRequest` and returns it. It may have
    `train_again` (`Replicating`), which tells a search its noise, and `judge` (`Judging`), which names the best.
    """

    def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        """Yield `(index, evaluation)` for each of `architectures`, as each is done, in any order.

        Raises:
            DeviceError: if the device stays lost; the candidates not yet yielded are then unevaluated.
        """
        ...


@runtime_checkable
class Replicating(Protocol):
    """Trains candidates a second time."""

    def train_again(
        self, architectures: Sequence[Candidate]
    ) -> Iterator[tuple[int, Accuracy | None]]:
        """Yield `(index, accuracy)` of each architecture trained with its second seed, None if that fails."""
        ...


@runtime_checkable
class Judging(Protocol):
    """Knows more of a candidate than a search was told."""

    def judge(self, candidate: Candidate) -> tuple[float, float]:
        """Return its accuracy (0..1) and latency in ms, as well as they are known."""
        ...
