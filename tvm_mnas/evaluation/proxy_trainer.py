"""One short training as a task for a worker process: everything in and out is plain data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import RunError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.accuracy import Accuracy

if TYPE_CHECKING:
    from tvm_mnas.training.splits import DataSplits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What to train, on what, and how; `weights` is where the trained weights go, or None to drop them."""

    notation: str
    data: str
    data_seed: int
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    weights: Path | None = None


def train(task: TrainTask, report: Callable[[int], None]) -> Accuracy:
    """Train the network of `task` and return its accuracy on the validation split.

    A weights file that is there already, with its accuracy beside it, is not trained again.

    Raises:
        TrainingError: the training diverged.
        DataError: the data is missing or does not fit.
    """
    if task.weights is not None and _accuracy_file(task.weights).is_file():
        return read_accuracy(task.weights)
    from tvm_mnas.training.proxy import ProxyRecipe, train_proxy
    from tvm_mnas.training.weights import save_weights

    architecture = Architecture.parse(task.notation)
    trained = train_proxy(
        architecture,
        load_splits(task.data, architecture.input_size, task.data_seed),
        ProxyRecipe(steps=task.steps, batch_size=task.batch_size, learning_rate=task.learning_rate),
        seed=task.seed,
        on_step=lambda done, total: report(done),
    )
    if task.weights is not None:
        save_weights(trained.network, task.weights)
        _write_accuracy(trained.accuracy, task.weights)
    return trained.accuracy


def training_seed(seed: int, architecture: Architecture) -> int:
    """Return the seed of a candidate's training: it follows from the run's and the architecture alone."""
    digest = hashlib.sha256(f"{seed}:{architecture.id}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


@lru_cache(maxsize=1)
def load_splits(data: str, input_size: int, seed: int) -> DataSplits:
    """Return the splits of `data`, read once per process."""
    from tvm_mnas.training.data import load_data

    # One decoding process each: trainings already run side by side, one a core.
    return load_data(data, input_size=input_size, seed=seed, workers=1)


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


def _write_accuracy(accuracy: Accuracy, weights: Path) -> None:
    file = _accuracy_file(weights)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(accuracy.to_json()), encoding="utf-8")
    os.replace(part, file)


def _accuracy_file(weights: Path) -> Path:
    return weights.with_suffix(".json")
