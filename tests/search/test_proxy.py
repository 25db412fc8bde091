"""A line where a short training says little: less than an epoch, before the search; near chance, after a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas.config import SearchConfig
from tvm_mnas.evaluation.results import Effort, Evaluation, Failure
from tvm_mnas.search.proxy import ChanceWatch, epochs_note
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.accuracy import Accuracy


def note_of(path: Path, **settings: object) -> str | None:
    config = SearchConfig.from_mapping(settings, source="test")
    return epochs_note(RunDirectory.create(path / "run", config), 32)


def test_less_than_an_epoch_is_told_with_how_many_steps_one_has(tmp_path: Path) -> None:
    note = note_of(tmp_path, train_steps=50)
    # 8,000 of the embedded images are trained on, 64 a step.
    assert note is not None
    assert "3200 of 8000 images, 0.40 epochs" in note
    assert "--train-steps 125 is one epoch" in note


@pytest.mark.parametrize(
    "settings",
    [{"train_steps": 125}, {"train_epochs": 1.0}, {"train_steps": 5, "trainer": "mine:train"}],
    ids=str,
)
def test_an_epoch_or_a_trainer_of_ones_own_is_not_told_of(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    assert note_of(tmp_path, **settings) is None


def record(number: int, top1: float | None, classes: int) -> TrialRecord:
    network = Architecture.parse(f"i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head8:n{classes}")
    accuracy = None
    if top1 is not None:
        accuracy = Accuracy(
            top1=top1, samples=1000, steps=5, train_loss=1.0, duration_s=1.0, seed=0,
            split="validation",
        )  # fmt: skip
    failure = Failure("measuring", "MeasurementError", "lost")
    evaluation = Evaluation.failed(network, failure, Effort(), accuracy)
    return TrialRecord(number, evaluation, None, None)


@pytest.mark.parametrize(
    ("accuracies", "classes", "told"),
    [
        ([0.002, 0.001, 0.002, 0.003], 1000, True),
        ([0.12, 0.29, 0.2, 0.5], 10, True),
        ([0.12, 0.35, 0.3, 0.5], 10, False),
        ([0.004, 0.005, 0.1, 0.2], 1000, False),
        ([0.1, 0.1, 0.1], 10, False),
    ],
)
def test_a_first_batch_near_chance_is_told_once(
    accuracies: list[float], classes: int, told: bool
) -> None:
    watch = ChanceWatch(4)
    lines = [watch.look(record(number, top1, classes)) for number, top1 in enumerate(accuracies)]
    assert watch.look(record(9, None, classes)) is None
    assert watch.look(record(10, 0.0, classes)) is None or len(accuracies) < 4
    found = [line for line in lines if line is not None]
    assert len(found) == told
    if told:
        assert f"where a guess has {1 / classes:.2%}" in found[0]
        assert "--train-steps" in found[0]
