"""What `tvm-mnas train` does: one network by a whole recipe, in a directory from which it is resumed.

OUT/
  training.json             what is trained, on what, how; a resumed training reads it
  checkpoint.safetensors    the whole state, every ten minutes and when it is interrupted
  log.jsonl                 a line for every so many steps, and for the accuracy after each epoch
  tensorboard/              the same for TensorBoard, if that is wanted
  weights.safetensors       the trained weights, with their accuracy in weights.json
  result.json               all measures of the validation and, looked at once, of the test
  export/                   what `tvm-mnas export` writes of the trained network
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.errors import Interruption
from tvm_mnas.evaluation.trainers import write_accuracy
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.log import TrainingLog, open_log
from tvm_mnas.training.recipe import TrainingPlan
from tvm_mnas.workflows.training.request import (
    WEIGHTS,
    TrainingRequest,
    TrainingResult,
    load_splits_of,
    read_request,
    read_result,
    write_result,
)

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits
    from tvm_mnas.training.loop import TrainingState
    from tvm_mnas.training.processes import ProcessGroup
    from tvm_mnas.training.task import Task

CHECKPOINT_S = 600.0
_CHECKPOINT = "checkpoint.safetensors"


class TrainingObserver(Protocol):
    """Watches a training."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage went on."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


def train(
    out: Path,
    *,
    device: str,
    workers: int,
    observer: TrainingObserver,
    group: ProcessGroup,
    tensorboard: bool = False,
    checkpoint_s: float = CHECKPOINT_S,
) -> TrainingResult:
    """Train, or go on training, what is in the directory `out`, and return its accuracies.

    `group` is of the processes that train it together. An interruption ends after the step under way, and is saved.
    The test split is looked at once, at the end: a training that is finished is not touched.

    Raises:
        ConfigError: if the processes cannot share a batch evenly.
        RunError: if the directory or its checkpoint cannot be used.
        DataError: if the data is missing, damaged or does not fit.
        TrainingError: if the training diverges.
    """
    request = read_request(out)
    finished = read_result(out)
    if finished is not None and (out / WEIGHTS).is_file():
        return finished
    splits = load_splits_of(request, workers=workers)
    group.check(request.recipe.batch_size)
    from tvm_mnas.training.tasks import task_of

    task = task_of(request.candidate)
    return _Training(
        out, request, splits, device, group, observer, tensorboard, checkpoint_s, task
    ).run()


@dataclass
class _Training:
    """One training under way."""

    out: Path
    request: TrainingRequest
    splits: DataSplits
    device: str
    group: ProcessGroup
    observer: TrainingObserver
    tensorboard: bool
    checkpoint_s: float
    task: Task
    _interrupted: bool = False
    _saved_at: float = field(default_factory=time.monotonic)
    _told: tuple[float, int] = (0.0, 0)

    def run(self) -> TrainingResult:
        from tvm_mnas.training.checkpoint import load_checkpoint_into
        from tvm_mnas.training.loop import start_training
        from tvm_mnas.training.weights import load_start

        request = self.request
        plan = request.recipe.plan(len(self.splits.train))
        candidate = request.candidate
        state = start_training(
            candidate, plan, seed=request.seed, device=self.device, group=self.group
        )
        if request.start:
            kept = load_start(state.network, Path(request.start))
            if kept and self.group.leads:
                self.observer.note(
                    f"{request.start} is of other classes: what tells them apart starts anew"
                )
        file = self.out / _CHECKPOINT
        if file.is_file():
            load_checkpoint_into(state, file, facts=request.to_json())
            if self.group.leads:
                self.observer.note(f"goes on after step {state.step} of {plan.steps}")
        started = time.perf_counter()
        with self._log(state.step) as log:
            self._told = (time.perf_counter(), state.step)
            with self._patient():
                self._run(state, plan, log)
            if self.group.leads:
                self._save(state)
            return self._finish(state, plan, time.perf_counter() - started, log)

    def _run(self, state: TrainingState, plan: TrainingPlan, log: TrainingLog | None) -> None:
        from tvm_mnas.training.loop import run_training

        run_training(
            state,
            plan,
            self.splits,
            task=self.task,
            seed=self.request.seed,
            device=self.device,
            group=self.group,
            on_state=lambda now: self._watch(now, plan, log),
        )

    def _watch(self, state: TrainingState, plan: TrainingPlan, log: TrainingLog | None) -> None:
        if not self.group.leads:
            return
        self.observer.stage("training", state.step, plan.steps)
        every = max(1, min(100, plan.steps // 100))
        if log is not None and (state.step % every == 0 or state.step == plan.steps):
            now = time.perf_counter()
            seconds, steps = now - self._told[0], state.step - self._told[1]
            self._told = (now, state.step)
            log.steps(
                state.step,
                epoch=state.step / plan.steps_per_epoch,
                rate=plan.rate_at(state.step - 1),
                loss=state.losses[-1],
                images_per_s=steps * plan.recipe.batch_size / seconds,
            )
        if log is not None and _ends_epoch(state.step, plan):
            self._evaluate(state, plan, log)
        if self._interrupted:
            self._save(state)
            raise Interruption
        if time.monotonic() - self._saved_at >= self.checkpoint_s:
            self._save(state)

    def _evaluate(self, state: TrainingState, plan: TrainingPlan, log: TrainingLog) -> None:
        splits, began = self.splits, time.perf_counter()
        score = self.task.evaluate(state.best_network, splits.validation, splits.normalization)
        # It is left for judging, and what is trained may be the same network.
        state.network.train()
        self._told = (self._told[0] + time.perf_counter() - began, self._told[1])
        log.accuracies(
            state.step,
            epoch=state.step / plan.steps_per_epoch,
            split="validation",
            measures=score.measures,
        )

    def _save(self, state: TrainingState) -> None:
        from tvm_mnas.training.checkpoint import save_checkpoint

        save_checkpoint(state, self.out / _CHECKPOINT, facts=self.request.to_json())
        self._saved_at = time.monotonic()

    def _finish(
        self, state: TrainingState, plan: TrainingPlan, duration_s: float, log: TrainingLog | None
    ) -> TrainingResult:
        from tvm_mnas.training.loop import to_plain
        from tvm_mnas.training.weights import save_weights

        network, splits = state.best_network, self.splits
        self.observer.stage("evaluating", 0, 2)
        validation = self.task.evaluate(network, splits.validation, splits.normalization)
        self.observer.stage("evaluating", 1, 2)
        test = self.task.evaluate(network, splits.test, splits.normalization)
        accuracy = Accuracy(
            top1=validation.value,
            samples=validation.samples,
            steps=plan.steps,
            train_loss=sum(state.losses) / len(state.losses),
            duration_s=duration_s,
            seed=self.request.seed,
            split="validation",
            metric=validation.metric,
        )
        result = TrainingResult(
            validation=accuracy,
            validation_measures=validation.measures,
            test=test,
            epochs=plan.epochs,
        )
        if log is not None:
            for split, score in (("validation", validation), ("test", test)):
                log.accuracies(plan.steps, epoch=plan.epochs, split=split, measures=score.measures)
            save_weights(to_plain(network), self.out / WEIGHTS, self.request.candidate)
            write_accuracy(accuracy, self.out / WEIGHTS)
            write_result(self.out, result)
        return result

    @contextlib.contextmanager
    def _log(self, step: int) -> Iterator[TrainingLog | None]:
        if not self.group.leads:
            yield None
            return
        with open_log(self.out, step=step, tensorboard=self.tensorboard) as log:
            yield log

    @contextlib.contextmanager
    def _patient(self) -> Iterator[None]:
        """Have an interruption wait for the end of the step: half a step could not be resumed exactly."""
        if self.group.size > 1:
            # Processes that stop at different steps would wait for each other: the last checkpoint counts.
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self._interrupted = True

        with _handled(remember):
            yield


def _ends_epoch(step: int, plan: TrainingPlan) -> bool:
    """Whether an epoch ended with this step, or a hundredth of the training, if that is longer; not at the end."""
    every = max(plan.steps_per_epoch, plan.steps / 100)
    return step < plan.steps and step // every > (step - 1) // every


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `handler` hear of SIGINT and SIGTERM; elsewhere than in the main thread, where nobody can, leave them."""
    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
