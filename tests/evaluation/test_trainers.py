"""Trainings as tasks: a trainer of one's own, what it may do wrong, and what is not done twice."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tvm_mnas.errors import ConfigError, DataError, TrainingError
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import run_all
from tvm_mnas.evaluation.trainers import (
    TrainTask,
    read_accuracy,
    run_training,
    training_seed,
)
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.weights import load_network

NOTATION = "i8_c1_w1:stem8_s22:r1_k3_s11_e1_o8:head8:n3"
Report = Callable[[int], None]


def careful(task: TrainTask, report: Report) -> Accuracy:
    """Train nothing, but tell how far it is."""
    network = task.build()
    for step in range(task.steps):
        report(step + 1)
    return task.finish(network, top1=0.625, samples=8, train_loss=0.5, duration_s=2.0)


def careless(task: TrainTask, report: Report) -> Any:
    """Return a number."""
    return 0.5


def forgetful(task: TrainTask, report: Report) -> Accuracy:
    """Leave no weights."""
    return replace(task, weights=None).finish(task.build(), top1=0.5, samples=8)


def clumsy(task: TrainTask, report: Report) -> Accuracy:
    """Have a mistake."""
    raise ZeroDivisionError("of\nmine")


def diverging(task: TrainTask, report: Report) -> Accuracy:
    """End without a number."""
    return task.finish(task.build(), top1=float("nan"), samples=8)


def without_data(task: TrainTask, report: Report) -> Accuracy:
    """Find no images."""
    raise DataError("the images are gone")


def task_for(trainer: str, weights: Path | None = None) -> TrainTask:
    return TrainTask(
        notation=NOTATION,
        data="embedded",
        data_seed=0,
        seed=5,
        recipe=Recipe(steps=3, batch_size=4, learning_rate=0.1),
        trainer=f"{__name__}:{trainer}",
        weights=weights,
    )


def silent(steps: int) -> None:
    pass


def test_a_trainer_of_ones_own_trains_and_its_weights_are_kept(tmp_path: Path) -> None:
    task = task_for("careful", tmp_path / "w.safetensors")
    told: list[int] = []
    accuracy = run_training(task, told.append)
    assert (accuracy.top1, accuracy.samples, accuracy.split) == (0.625, 8, "validation")
    assert (accuracy.steps, accuracy.seed, accuracy.train_loss) == (3, 5, 0.5)
    assert told == [1, 2, 3]
    assert read_accuracy(tmp_path / "w.safetensors") == accuracy
    kept = load_network(tmp_path / "w.safetensors")[1].state_dict()
    assert all(torch.equal(kept[name], value) for name, value in task.build().state_dict().items())


def test_a_training_whose_weights_are_there_is_known(tmp_path: Path) -> None:
    task = task_for("careful", tmp_path / "w.safetensors")
    assert task.known() is None
    accuracy = run_training(task, silent)
    assert task.known() == accuracy
    assert replace(task, weights=None).known() is None


def test_the_files_of_a_task_can_go_elsewhere(tmp_path: Path) -> None:
    task = task_for("careful", tmp_path / "w.safetensors")
    (tmp_path / "there").mkdir()
    elsewhere = task.written_to(tmp_path / "there")
    run_training(elsewhere, silent)
    assert [path.name for path in task.files] == [path.name for path in elsewhere.files]
    assert all(path.is_file() for path in elsewhere.files)
    assert not any(path.exists() for path in task.files)
    without = task_for("careful")
    assert (without.files, without.written_to(tmp_path)) == ((), without)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ("careless", "returned float: it returns an Accuracy"),
        ("forgetful", "left no weights: it ends with task.finish"),
        ("clumsy", "failed: ZeroDivisionError: of"),
        ("diverging", "without a usable accuracy"),
    ],
)
def test_what_a_trainer_does_wrong_fails_its_candidate(
    trainer: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        run_training(task_for(trainer, tmp_path / "w.safetensors"), silent)


def test_lost_data_ends_the_search_and_a_wrong_name_is_told() -> None:
    with pytest.raises(DataError, match="the images are gone"):
        run_training(task_for("without_data"), silent)
    with pytest.raises(ConfigError, match="has no 'absent'"):
        run_training(task_for("absent"), silent)


def test_a_task_crosses_to_a_worker_process() -> None:
    task = task_for("careful")
    assert pickle.loads(pickle.dumps(task)) == task
    with LocalExecutor(jobs=1) as executor:
        outcomes = dict(run_all(executor, run_training, [task, task_for("clumsy")]))
    assert outcomes[0].result == run_training(task, silent)
    assert isinstance(outcomes[1].error, TrainingError)


def test_a_seed_follows_from_the_run_and_the_candidate() -> None:
    first, second = (
        Architecture.parse(NOTATION),
        Architecture.parse(NOTATION.replace("head8", "head16")),
    )
    assert training_seed(1, first) == training_seed(1, Architecture.parse(NOTATION))
    assert len({training_seed(seed, one) for seed in (1, 2) for one in (first, second)}) == 4
