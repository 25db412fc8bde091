"""The trainer that ships: the paper's short training, the one that `--trainer proxy` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_mnas.evaluation.trainers import TrainTask
    from tvm_mnas.training.accuracy import Accuracy


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
