"""Trainings as tasks for worker processes, and the door for trainers of one's own.

    def train(task: TrainTask, report: Callable[[int], None]) -> Accuracy:
        network = task.build()                     # the candidate's torch module
        ...                                        # train it as you like; report(steps) moves the progress bar
        return task.finish(network, top1=0.93, samples=2000)

`tvm-mnas search --trainer package.module:train` uses it. It runs in a worker process with one thread, and whatever it
draws at random follows from `task.seed`, so that a resumed search is the same search.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import RunError, TrainingError, TvmMnasError, raise_if_foreign
from tvm_mnas.files import atomic_write_text
from tvm_mnas.plugins import TRAINERS
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.training.accelerators import device_here
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION, TOP_1, Accuracy, Metric
from tvm_mnas.training.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.training.data.splits import DataSplits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What to train, on what, and how; `weights` is where the trained weights go, or None to drop them.

    `notation` is the candidate's, `data` a data spec, `trainer` what `--trainer` takes. A trainer of one's own may have
    its own idea of the `recipe`. `devices` are those of the run, of which `device` is this process's.
    """

    notation: str
    data: str
    data_seed: int
    seed: int
    recipe: Recipe
    devices: tuple[str, ...] = ("cpu",)
    trainer: str = "proxy"
    max_bad_images: int = 0
    weights: Path | None = None

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        config: SearchConfig,
        recipe: Recipe,
        devices: tuple[str, ...],
        *,
        again: bool = False,
        weights: Path | None = None,
    ) -> TrainTask:
        """Return the training of `candidate` in a search of `config`; `again` is the second one, of another seed."""
        return cls(
            notation=candidate.notation,
            trainer=config.trainer,
            data=config.data,
            max_bad_images=config.max_bad_images,
            data_seed=config.seed,
            seed=training_seed(config.seed, candidate, again=again),
            recipe=recipe,
            devices=devices,
            weights=weights,
        )

    @property
    def candidate(self) -> Candidate:
        """The candidate to train."""
        return parse_candidate(self.notation)

    @property
    def device(self) -> str:
        """Where to train, as torch names it."""
        return device_here(self.devices)

    @property
    def steps(self) -> int:
        """How many steps the recipe takes on the run's data."""
        return self.recipe.steps or self.recipe.plan(len(self.splits().train)).steps

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the training leaves: its weights, if they are wanted, and their accuracy."""
        return () if self.weights is None else (self.weights, _accuracy_file(self.weights))

    def written_to(self, directory: Path) -> TrainTask:
        """Return the same training, its files in `directory` under the same names."""
        return (
            self if self.weights is None else replace(self, weights=directory / self.weights.name)
        )

    def known(self) -> Accuracy | None:
        """Return the accuracy of an earlier training that left the files of this one.

        Raises:
            RunError: if it cannot be read.
        """
        if self.weights is None or not _accuracy_file(self.weights).is_file():
            return None
        return read_accuracy(self.weights)

    def build(self) -> nn.Module:
        """Return the candidate's network with weights drawn from `seed`."""
        from tvm_mnas.models.candidates import build_candidate

        return build_candidate(self.candidate, seed=self.seed)

    def splits(self) -> DataSplits:
        """Return training, validation and test split of the run's data, fit for the candidate; read once per process.

        Raises:
            DataError: if the data is missing or malformed.
        """
        return load_splits(
            self.data,
            self.candidate.input_size,
            self.data_seed,
            self.max_bad_images,
            self.recipe.crop_padding,
        )

    def finish(
        self,
        network: nn.Module,
        *,
        top1: float,
        samples: int,
        train_loss: float = math.nan,
        duration_s: float = 0.0,
    ) -> Accuracy:
        """Save the weights of `network` where they are wanted, and return the accuracy to return.

        `top1` is a share in 0..1 of `samples` validation images, or a detector's mean average precision on them.

        Raises:
            TrainingError: if `top1` is no share.
        """
        from tvm_mnas.training.weights import save_weights

        try:
            accuracy = Accuracy(
                top1=float(top1),
                samples=int(samples),
                steps=self.steps,
                train_loss=0.0 if math.isnan(train_loss) else float(train_loss),
                duration_s=float(duration_s),
                seed=self.seed,
                split="validation",
                metric=metric_of(self.candidate),
            )
        except ValueError as error:
            raise TrainingError(f"the training ended without a usable accuracy: {error}") from error
        if self.weights is not None:
            save_weights(network, self.weights, self.candidate)
        return accuracy


def metric_of(candidate: Candidate) -> Metric:
    """Return what networks such as `candidate` are judged by."""
    return MEAN_AVERAGE_PRECISION if isinstance(candidate, DetectorArchitecture) else TOP_1


class Trainer(Protocol):
    """Turns a candidate into an accuracy, in a worker process."""

    def __call__(self, task: TrainTask, report: Callable[[int], None]) -> Accuracy:
        """Train what `task` names and return its accuracy on images held out of the training.

        `report(steps)` tells the steps done so far. Where `task.weights` is given, the trained weights go there:
        `task.finish` sees to it.

        Raises:
            TrainingError: if the training diverged: the candidate fails, the search goes on.
            DataError: if the data is missing or does not fit: the search ends.
        """
        ...


def run_training(task: TrainTask, report: Callable[[int], None]) -> Accuracy:
    """Have the task's trainer train its candidate and return the accuracy.

    What a trainer of one's own raises beside the errors of tvm-mnas fails the candidate.

    Raises what `Trainer` raises, and ConfigError where there is no such trainer.
    """
    trainer: Trainer = TRAINERS.load(task.trainer)
    try:
        accuracy: object = trainer(task, report)
    except TvmMnasError:
        raise
    except Exception as error:
        raise_if_foreign(error)
        if TRAINERS.shipped.get(task.trainer) is not None:
            raise
        raise TrainingError(
            f"the trainer {task.trainer!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(accuracy, Accuracy):
        raise TrainingError(
            f"the trainer {task.trainer!r} returned {type(accuracy).__name__}: it returns an Accuracy, "
            f"which task.finish(network, top1=..., samples=...) makes"
        )
    if task.weights is not None:
        if not task.weights.is_file():
            raise TrainingError(
                f"the trainer {task.trainer!r} left no weights: it ends with task.finish(network, ...)"
            )
        write_accuracy(accuracy, task.weights)
    return accuracy


def train_by_proxy(task: TrainTask, report: Callable[[int], None]) -> Accuracy:
    """Train the network of `task` by its recipe and return its accuracy on the validation split.

    Raises:
        TrainingError: the training diverged.
        DataError: the data is missing or does not fit.
    """
    from tvm_mnas.training.loop import train_candidate
    from tvm_mnas.training.weights import save_weights

    trained = train_candidate(
        task.candidate,
        task.splits(),
        task.recipe,
        seed=task.seed,
        device=task.device,
        on_step=lambda done, total: report(done),
    )
    if task.weights is not None:
        save_weights(trained.network, task.weights, task.candidate)
    return trained.accuracy


def training_seed(seed: int, candidate: Candidate, *, again: bool = False) -> int:
    """Return the seed of a candidate's training, or of its second one: it follows from the run's and the candidate."""
    text = f"{seed}:{candidate.id}" + (":again" if again else "")
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "little")


def recipe_of(config: SearchConfig, changes: Mapping[str, object] | None = None) -> Recipe:
    """Return the recipe that `config` names, with its settings of a training and further `changes`.

    Raises:
        ConfigError: if there is none, or a value breaks a rule.
    """
    given = {
        "steps": config.train_steps,
        "epochs": config.train_epochs,
        "batch_size": config.train_batch,
        "learning_rate": config.learning_rate,
    }
    settings = {name: value for name, value in given.items() if value}
    return find_recipe(config.recipe, settings | dict(changes or {}))


@lru_cache(maxsize=1)
def load_splits(
    data: str, input_size: int, seed: int, max_bad_images: int = 0, crop_padding: int = 0
) -> DataSplits:
    """Return the splits of `data`, read once per process."""
    from tvm_mnas.training.data.images import LoadOptions
    from tvm_mnas.training.data.sources import load_data

    # One decoding process each: trainings already run side by side, one a core.
    options = LoadOptions(
        input_size=input_size,
        seed=seed,
        workers=1,
        max_bad_images=max_bad_images,
        crop_padding=crop_padding,
    )
    return load_data(data, options)


def read_accuracy(weights: Path) -> Accuracy:
    """Return the validation accuracy of the network whose weights are in the file `weights`.

    Raises:
        RunError: if it cannot be read.
    """
    file = _accuracy_file(weights)
    try:
        return Accuracy.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: an accuracy cannot be read: {error}; delete the file") from error


def write_accuracy(accuracy: Accuracy, weights: Path) -> None:
    """Write `accuracy` beside the weights that it is of."""
    atomic_write_text(_accuracy_file(weights), json.dumps(accuracy.to_json()))


def _accuracy_file(weights: Path) -> Path:
    return weights.with_suffix(".json")
