"""What `tvm-mnas train` does: one network by a whole recipe, in a directory from which it is resumed.

OUT/
  training.json             what is trained, on what, how; a resumed training reads it
  checkpoint.safetensors    the whole state, every ten minutes and when it is interrupted
  log.jsonl                 a line for every so many steps, and for each evaluation
  weights.safetensors       the trained weights, with their accuracy in weights.json
  result.json               top-1 and top-5 of the validation and, looked at once, of the test
  export/                   what `tvm-mnas export` writes of the trained network
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tvm_mnas.errors import Interruption, RunError
from tvm_mnas.evaluation.trainers import write_accuracy
from tvm_mnas.files import atomic_write_text
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, load_data
from tvm_mnas.training.recipe import Recipe, TrainingPlan, recipe_from

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits
    from tvm_mnas.training.loop import TrainingState
    from tvm_mnas.training.processes import ProcessGroup

SCHEMA = 1
CHECKPOINT_S = 600.0
_REQUEST = "training.json"
_CHECKPOINT = "checkpoint.safetensors"
_LOG = "log.jsonl"
_RESULT = "result.json"
WEIGHTS = "weights.safetensors"


class TrainingObserver(Protocol):
    """Watches a training."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage went on."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What is trained, on what, and how; `start` is a file of weights to begin with, or empty."""

    notation: str
    data: str
    recipe: Recipe
    seed: int = 0
    max_bad_images: int = 0
    start: str = ""

    @property
    def candidate(self) -> Candidate:
        """The network to train."""
        return parse_candidate(self.notation)

    def to_json(self) -> dict[str, Any]:
        """Return the request as a JSON object; `from_json` reads it back to an equal one."""
        return asdict(self) | {"schema": SCHEMA}

    @classmethod
    def from_json(cls, values: dict[str, Any], *, source: str) -> TrainingRequest:
        """Return the request in `values`.

        Raises:
            RunError: if they are of another version, or not whole.
            ConfigError: if the recipe breaks a rule.
        """
        if values.get("schema") != SCHEMA:
            raise RunError(f"{source} is no training of version {SCHEMA}; start anew in another directory")  # fmt: skip
        try:
            return cls(
                notation=str(values["notation"]),
                data=str(values["data"]),
                recipe=recipe_from(values["recipe"], source=source),
                seed=int(values["seed"]),
                max_bad_images=int(values["max_bad_images"]),
                start=str(values["start"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{source} is damaged ({error!r}); start anew in another directory") from error  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training ended with; accuracies are shares in 0..1."""

    validation: Accuracy
    validation_top5: float
    test_top1: float
    test_top5: float
    test_samples: int
    epochs: float

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json; `from_json` reads it back to an equal result."""
        return asdict(self) | {"schema": SCHEMA, "validation": self.validation.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any], *, source: str) -> TrainingResult:
        """Return the result in `values`; RunError if they are of another version, or not whole."""
        if values.get("schema") != SCHEMA:
            raise RunError(f"{source} is no result of version {SCHEMA}; delete it, and resume")
        try:
            return cls(
                validation=Accuracy.from_json(values["validation"]),
                validation_top5=float(values["validation_top5"]),
                test_top1=float(values["test_top1"]),
                test_top5=float(values["test_top5"]),
                test_samples=int(values["test_samples"]),
                epochs=float(values["epochs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{source} is damaged ({error!r}); delete it, and resume") from error


def create_training(out: Path, request: TrainingRequest) -> None:
    """Make the directory `out` of a new training.

    Raises:
        RunError: if it exists and holds something.
        DataError: if the data is not there, or does not fit the network.
    """
    from tvm_mnas.training.loop import check_fit

    check_data(request.data)
    check_fit(request.candidate, _load(request, workers=0))
    if out.exists() and any(out.iterdir()):
        raise RunError(
            f"a training makes a new directory, and {out} holds something; name another (-o), or go on with "
            f"`tvm-mnas train --resume {out}`"
        )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out / _REQUEST, json.dumps(request.to_json(), indent=2) + "\n")


def read_request(out: Path) -> TrainingRequest:
    """Return what is trained in the directory `out`.

    Raises:
        RunError: if it is the directory of no training.
    """
    file = out / _REQUEST
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{out} is no training: it has no {_REQUEST}; `tvm-mnas train MODEL --data SPEC -o {out}` starts one"
        ) from error
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); start anew in another directory") from error
    return TrainingRequest.from_json(values, source=str(file))


def read_result(out: Path) -> TrainingResult | None:
    """Return what the training in `out` ended with, None if it did not end yet.

    Raises:
        RunError: if that cannot be read.
    """
    file = out / _RESULT
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); delete it, and resume") from error
    return TrainingResult.from_json(values, source=str(file))


def train(
    out: Path,
    *,
    device: str,
    workers: int,
    observer: TrainingObserver,
    group: ProcessGroup,
    checkpoint_s: float = CHECKPOINT_S,
) -> TrainingResult:
    """Train, or go on training, what is in the directory `out`, and return its accuracies.

    `group` is of the processes that train it together. An interruption ends after the step under way, and is saved.
    The test split is looked at once, at the end.

    Raises:
        ConfigError: if the processes cannot share a batch evenly.
        RunError: if the directory or its checkpoint cannot be used.
        DataError: if the data is missing, damaged or does not fit.
        TrainingError: if the training diverges.
    """
    request = read_request(out)
    splits = _load(request, workers=workers)
    group.check(request.recipe.batch_size)
    return _Training(out, request, splits, device, group, observer, checkpoint_s).run()


def _load(request: TrainingRequest, *, workers: int) -> DataSplits:
    options = LoadOptions(
        input_size=request.candidate.input_size,
        seed=request.seed,
        workers=workers,
        max_bad_images=request.max_bad_images,
        crop_padding=request.recipe.crop_padding,
    )
    return load_data(request.data, options)


@dataclass
class _Training:
    """One training under way."""

    out: Path
    request: TrainingRequest
    splits: DataSplits
    device: str
    group: ProcessGroup
    observer: TrainingObserver
    checkpoint_s: float
    _interrupted: bool = False
    _saved_at: float = field(default_factory=time.monotonic)
    _told: tuple[float, int] = (0.0, 0)

    def run(self) -> TrainingResult:
        from tvm_mnas.training.checkpoint import load_checkpoint_into
        from tvm_mnas.training.loop import run_training, start_training
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
                    f"{request.start} is of other classes: the classifier starts anew"
                )
        file = self.out / _CHECKPOINT
        if file.is_file():
            load_checkpoint_into(state, file, facts=request.to_json())
            if self.group.leads:
                self.observer.note(f"goes on after step {state.step} of {plan.steps}")
        started = time.perf_counter()
        with self._log() as log, self._patient():
            self._told = (time.perf_counter(), state.step)
            run_training(
                state,
                plan,
                self.splits,
                seed=request.seed,
                device=self.device,
                group=self.group,
                on_state=lambda now: self._watch(now, plan, log),
            )
            if self.group.leads:
                self._save(state)
        return self._finish(state, plan, time.perf_counter() - started)

    def _watch(self, state: TrainingState, plan: TrainingPlan, log: TextIO | None) -> None:
        if not self.group.leads:
            return
        self.observer.stage("training", state.step, plan.steps)
        every = max(1, min(100, plan.steps // 100))
        if log is not None and (state.step % every == 0 or state.step == plan.steps):
            now = time.perf_counter()
            seconds, steps = now - self._told[0], state.step - self._told[1]
            self._told = (now, state.step)
            line = {
                "step": state.step,
                "epoch": round(state.step / plan.steps_per_epoch, 4),
                "rate": plan.rate_at(state.step - 1),
                "loss": state.losses[-1],
                "images_per_s": round(steps * plan.recipe.batch_size / seconds, 1),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
        if self._interrupted:
            self._save(state)
            raise Interruption
        if time.monotonic() - self._saved_at >= self.checkpoint_s:
            self._save(state)

    def _save(self, state: TrainingState) -> None:
        from tvm_mnas.training.checkpoint import save_checkpoint

        save_checkpoint(state, self.out / _CHECKPOINT, facts=self.request.to_json())
        self._saved_at = time.monotonic()

    def _finish(
        self, state: TrainingState, plan: TrainingPlan, duration_s: float
    ) -> TrainingResult:
        from tvm_mnas.training.loop import evaluate, to_plain
        from tvm_mnas.training.weights import save_weights

        network, splits = state.best_network, self.splits
        self.observer.stage("evaluating", 0, 2)
        validation = evaluate(network, splits.validation, splits.normalization)
        self.observer.stage("evaluating", 1, 2)
        test = evaluate(network, splits.test, splits.normalization)
        accuracy = Accuracy(
            top1=validation.top1,
            samples=validation.samples,
            steps=plan.steps,
            train_loss=sum(state.losses) / len(state.losses),
            duration_s=duration_s,
            seed=self.request.seed,
            split="validation",
        )
        result = TrainingResult(
            validation=accuracy,
            validation_top5=validation.top5,
            test_top1=test.top1,
            test_top5=test.top5,
            test_samples=test.samples,
            epochs=plan.epochs,
        )
        if self.group.leads:
            save_weights(to_plain(network), self.out / WEIGHTS, self.request.candidate)
            write_accuracy(accuracy, self.out / WEIGHTS)
            atomic_write_text(self.out / _RESULT, json.dumps(result.to_json(), indent=2) + "\n")
        return result

    @contextlib.contextmanager
    def _log(self) -> Iterator[TextIO | None]:
        if not self.group.leads:
            yield None
            return
        with (self.out / _LOG).open("a", encoding="utf-8") as log:
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
