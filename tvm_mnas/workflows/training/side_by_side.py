"""Whole trainings side by side, each in its directory, on the accelerators or the cores there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.errors import CandidateError
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import run_all
from tvm_mnas.training.accelerators import device_here
from tvm_mnas.workflows.training.full import TrainingObserver, train
from tvm_mnas.workflows.training.request import read_request, read_result


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """How trainings run beside each other: `jobs` at once on `devices` in turn, each with its decoding `workers`."""

    devices: tuple[str, ...] = ("cpu",)
    jobs: int = 1
    workers: int = 1
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    """A training for a worker process."""

    directory: Path
    how: SideBySide


def train_all(
    places: Sequence[Path], *, how: SideBySide, observer: TrainingObserver
) -> dict[Path, str]:
    """Train what is not trained yet in `places`; return why trainings failed.

    Raises:
        DataError: the data is missing, or does not fit.
        RunError: a training cannot be used.
    """
    waiting = [place for place in places if read_result(place) is None]
    steps = sum(_steps(place) for place in waiting)
    failures: dict[Path, str] = {}
    with LocalExecutor(jobs=how.jobs) as executor:
        tasks = [_Task(place, how) for place in waiting]
        outcomes = run_all(
            executor,
            _train_one,
            tasks,
            on_progress=lambda done: observer.stage("training", done, max(steps, done)),
        )
        for index, outcome in outcomes:
            if isinstance(outcome.error, CandidateError):
                failures[waiting[index]] = str(outcome.error)
            elif outcome.error is not None:
                raise outcome.error
    return failures


def _steps(place: Path) -> int:
    return read_request(place).recipe.steps


def _train_one(task: _Task, report: Callable[[int], None]) -> None:
    from tvm_mnas.training.processes import SINGLE

    train(
        task.directory,
        device=device_here(task.how.devices),
        workers=task.how.workers,
        tensorboard=task.how.tensorboard,
        observer=_Reporting(report),
        group=SINGLE,
    )


@dataclass(frozen=True)
class _Reporting:
    """Reports steps to the process that waits."""

    report: Callable[[int], None]

    def stage(self, name: str, done: int, total: int) -> None:
        """A step was done."""
        if name == "training":
            self.report(done)

    def note(self, text: str) -> None:
        """Nobody reads notes in a worker."""
