"""What a training writes while it goes on, after a process was killed and for TensorBoard as well."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tvm_mnas.errors import ConfigError
from tvm_mnas.training.log import check_tensorboard, open_log


def write(out: Path, steps: range, *, tensorboard: bool = False) -> None:
    with open_log(out, step=steps.start, tensorboard=tensorboard) as log:
        for step in steps:
            log.steps(step + 1, epoch=step / 4, rate=0.1, loss=1 / (step + 1), images_per_s=9.96)
        log.accuracies(
            steps.stop, epoch=1.0, split="validation", measures={"top1": 0.5, "top5": 0.75}
        )


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_line_for_some_steps_and_one_for_an_accuracy(tmp_path: Path) -> None:
    write(tmp_path, range(0, 2))
    assert lines_of(tmp_path) == [
        {"step": 1, "epoch": 0.0, "rate": 0.1, "loss": 1.0, "images_per_s": 10.0},
        {"step": 2, "epoch": 0.25, "rate": 0.1, "loss": 0.5, "images_per_s": 10.0},
        {"step": 2, "epoch": 1.0, "validation_top1": 0.5, "validation_top5": 0.75},
    ]
    assert not (tmp_path / "tensorboard").exists()


def test_what_was_done_after_the_last_checkpoint_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, range(0, 9))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 1')
    write(tmp_path, range(5, 7))
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 7]


def scalars(out: Path, name: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def test_tensorboard_shows_the_same_and_hides_what_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, range(0, 4), tensorboard=True)
    assert scalars(tmp_path, "training/loss") == [
        (step, pytest.approx(1 / step)) for step in range(1, 5)
    ]
    assert scalars(tmp_path, "accuracy/validation_top1") == [(4, 0.5)]
    # What was begun for TensorBoard goes on so, without being asked for again.
    write(tmp_path, range(2, 6))
    assert [step for step, _ in scalars(tmp_path, "training/loss")] == [1, 2, 3, 4, 5, 6]
    assert scalars(tmp_path, "accuracy/validation_top1") == [(6, 0.5)]


def test_without_its_package_tensorboard_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_tensorboard()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tvm-mnas\[tensorboard\]'"):
        check_tensorboard()
