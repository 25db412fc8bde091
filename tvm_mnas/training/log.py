"""What a training writes while it goes on: `log.jsonl`, and the same for TensorBoard where that is wanted.

A line of `log.jsonl` has the step and the epoch, and either the rate, the loss and the images a second, or the
accuracies of a split. Lines of steps that a killed training did after its last checkpoint are dropped when it is
resumed: it does them again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tvm_mnas.errors import ConfigError
from tvm_mnas.files import atomic_write_text

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class TrainingLog:
    """An open log; `board` is TensorBoard's writer, None without it."""

    lines: TextIO
    board: Any

    def steps(
        self, step: int, *, epoch: float, rate: float, loss: float, images_per_s: float
    ) -> None:
        """Tell of the steps up to `step`."""
        scalars = {"rate": rate, "loss": loss, "images_per_s": round(images_per_s, 1)}
        self._write(step, epoch, scalars, "training")

    def accuracies(
        self, step: int, *, epoch: float, split: str, measures: Mapping[str, float]
    ) -> None:
        """Tell of the accuracies (0..1) of a split after `step`."""
        scalars = {f"{split}_{name}": value for name, value in measures.items()}
        self._write(step, epoch, scalars, "accuracy")

    def _write(self, step: int, epoch: float, scalars: dict[str, float], group: str) -> None:
        line = {"step": step, "epoch": round(epoch, 4)} | scalars
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()
        if self.board is not None:
            for name, value in scalars.items():
                self.board.add_scalar(f"{group}/{name}", value, step)
            self.board.flush()


def check_tensorboard() -> None:
    """Raise ConfigError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "a log for TensorBoard needs its package, and that is not installed; "
            "`pip install 'tvm-mnas[tensorboard]'`, or leave out --tensorboard"
        )


@contextlib.contextmanager
def open_log(out: Path, *, step: int, tensorboard: bool) -> Iterator[TrainingLog]:
    """Open the log of the training in `out`, which goes on after `step`.

    One that was begun for TensorBoard goes on so, where it is still installed.
    """
    _drop_after(out / LOG, step)
    board: Any = None
    with (out / LOG).open("a", encoding="utf-8") as lines:
        begun = (out / TENSORBOARD).is_dir() and importlib.util.find_spec("tensorboard") is not None
        if tensorboard or begun:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard hides what it has of later steps.
            board = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)
        try:
            yield TrainingLog(lines, board)
        finally:
            if board is not None:
                board.close()


def _drop_after(file: Path, step: int) -> None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        atomic_write_text(file, "".join(kept))


def _step_of(line: str) -> float:
    """Return the step that a line tells of; infinity for one that a killed process left half written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
