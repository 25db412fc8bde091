"""What a task is: the loss that a network learns by, and the measure that it is judged by; and what all tasks share.

The loop, checkpoints, recipes and processes are the same for every task. `tasks.py` has the one of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from tvm_mnas.errors import DataError
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.accuracy import Score
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import Batch, DataSplits, Split, to_input
from tvm_mnas.training.processes import ProcessGroup
from tvm_mnas.training.recipe import Recipe

LossOf = Callable[[Any, Tensor], Tensor]
"""The loss of a network's outputs in training mode, and the labels of the batch."""


class Task(Protocol):
    """What is learnt."""

    def check_fit(self, candidate: Candidate, splits: DataSplits) -> None:
        """Look whether `candidate` can be trained on `splits`; DataError if not."""
        ...

    def train_split(self, split: Split, recipe: Recipe) -> Split:
        """Return the training split, augmented as the recipe says."""
        ...

    def loss(self, network: nn.Module, recipe: Recipe, group: ProcessGroup) -> LossOf:
        """Return the loss that `network` learns by, in one of the processes of `group`."""
        ...

    def evaluate(self, network: nn.Module, split: Split, normalization: Normalization) -> Score:
        """Return how good `network` is on `split`, in eval mode (which it is left in).

        Raises:
            TrainingError: if its outputs are no finite numbers.
        """
        ...


def check_images_fit(candidate: Candidate, splits: DataSplits) -> None:
    """Look whether `candidate` takes the images of `splits` and tells their classes apart.

    Raises:
        DataError: channels, input size or classes differ.
    """
    channels = len(splits.normalization.mean)
    if candidate.input_channels != channels:
        raise DataError(
            f"{splits.name} has {channels} channels, but the network's input has "
            f"{candidate.input_channels}; use a space with `channels = {channels}`"
        )
    if candidate.input_size != splits.input_size:
        raise DataError(
            f"the data was loaded for inputs of {splits.input_size}, but the network's "
            f"input size is {candidate.input_size}"
        )
    if candidate.classes < splits.classes:
        raise DataError(
            f"{splits.name} has {splits.classes} classes, but the network tells only "
            f"{candidate.classes} apart; use a space with `classes = {splits.classes}`"
        )


def place(batch: Batch, normalization: Normalization, device: str) -> tuple[Tensor, Tensor]:
    """Return images float32 (N,C,S,S) and labels of a batch on `device`."""
    images, labels = batch
    return to_input(images, normalization, device), labels.to(device, non_blocking=True)
