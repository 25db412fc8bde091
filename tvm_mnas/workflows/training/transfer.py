"""What `tvm-mnas transfer` does: the best of a search trained in full, and their accuracies beside their latencies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import CandidateError, ConfigError
from tvm_mnas.evaluation.manifest import MANIFEST, Origin, read_manifest
from tvm_mnas.evaluation.ranking import AccuracyNoise
from tvm_mnas.search.proxy import noise_of
from tvm_mnas.search.result import pick_finalists
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows.training.full import TrainingObserver
from tvm_mnas.workflows.training.handover import export_training
from tvm_mnas.workflows.training.request import (
    TrainingRequest,
    TrainingResult,
    ensure_training,
    read_result,
)
from tvm_mnas.workflows.training.side_by_side import SideBySide, train_all


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How winners are trained and measured; `data` is the run's where it is None."""

    recipe: Recipe
    data: str | None = None
    seed: int = 0
    how: SideBySide = field(default_factory=SideBySide)
    device: str | None = None
    records: str | None = None
    schedules_per_kernel: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """One candidate after its whole training; where that failed, `failure` says why, and the rest is None."""

    trial: int
    notation: str
    search_top1: float | None
    directory: str
    result: TrainingResult | None
    latency: Latency | None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "result": None if self.result is None else self.result.to_json(),
            "latency": None if self.latency is None else self.latency.to_dict(),
        }


def transfer(
    run: Path, out: Path, *, top: int, options: TransferOptions, observer: TrainingObserver
) -> tuple[Winner, ...]:
    """Train the `top` candidates of `run` in full, export each, and return them by falling test accuracy.

    What is in `out` already goes on: a training from its checkpoint, an export not at all.

    Raises:
        ConfigError: the run has no candidate that succeeded, or `top` is below 1.
        RunError: the run or a training in `out` cannot be used.
        DataError: the data is missing, or does not fit.
        DeviceError: if the device stays lost; what was trained stays.
    """
    if top < 1:
        raise ConfigError(f"a transfer trains 1 candidate or more, not {top}; add --top 12")
    directory = RunDirectory.open(run)
    trials = directory.finished_trials()
    records = pick_finalists(trials, top)
    if not records:
        raise ConfigError(
            f"a transfer needs a trial that succeeded, and {run} has none; `tvm-mnas report {run}` lists the reasons"
        )
    places = [out / f"trial-{record.number}" for record in records]
    for record, place in zip(records, places, strict=True):
        _prepare(record, place, directory, options)
    failures = train_all(places, how=options.how, observer=observer)
    winners = [
        _hand_over(
            record, place, failures.get(place), directory, noise_of(trials), options, observer
        )
        for record, place in zip(records, places, strict=True)
    ]
    return tuple(sorted(winners, key=lambda one: -(one.result.test.value if one.result else -1)))


def _prepare(
    record: TrialRecord, place: Path, directory: RunDirectory, options: TransferOptions
) -> None:
    config = directory.config
    request = TrainingRequest(
        notation=record.evaluation.architecture.notation,
        data=config.data if options.data is None else options.data,
        recipe=options.recipe,
        seed=options.seed,
        max_bad_images=config.max_bad_images,
    )
    ensure_training(place, request)


def _hand_over(
    record: TrialRecord,
    place: Path,
    failure: str | None,
    directory: RunDirectory,
    noise: AccuracyNoise | None,
    options: TransferOptions,
    observer: TrainingObserver,
) -> Winner:
    config = directory.config
    origin = Origin(
        run=directory.path.resolve().name,
        trial=record.number,
        trials=config.trials,
        search_reward=record.reward,
        search_accuracy=record.evaluation.accuracy,
        algorithm=config.algorithm,
        seed=config.seed,
        accuracy_noise=noise,
    )
    latency = None
    if failure is None:
        manifest = place / "export" / MANIFEST
        try:
            if not manifest.is_file():
                export_training(
                    place,
                    device=options.device or config.device,
                    records=options.records or config.records,
                    schedules_per_kernel=options.schedules_per_kernel,
                    observer=observer,
                    origin=origin,
                )
            latency = read_manifest(manifest).latency
        except CandidateError as error:
            failure = str(error)
    accuracy = record.evaluation.accuracy
    return Winner(
        trial=record.number,
        notation=record.evaluation.architecture.notation,
        search_top1=None if accuracy is None else accuracy.top1,
        directory=str(place),
        result=read_result(place),
        latency=latency,
        failure=failure,
    )
