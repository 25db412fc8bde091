"""What a network is trained for: the loss that it learns by, and the measure that it is judged by.

The loop, checkpoints, recipes and processes are the same for every task; what differs is here for classification, and
in `detection/task.py` for detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tvm_mnas.errors import DataError, TrainingError
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.training.accuracy import TOP_1, Score
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import Batch, DataSplits, Split, to_input
from tvm_mnas.training.processes import ProcessGroup
from tvm_mnas.training.recipe import Recipe

if TYPE_CHECKING:
    from tvm_mnas.training.detection.task import Detection

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


def task_of(candidate: Candidate) -> Classification | Detection:
    """Return what `candidate` is for."""
    if isinstance(candidate, DetectorArchitecture):
        from tvm_mnas.training.detection.task import Detection

        return Detection()
    return Classification()


@dataclass(frozen=True, slots=True)
class Classification:
    """Which class an image is of: cross-entropy, judged by top-1 and top-5 accuracy."""

    batch_size: int = 64

    def check_fit(self, candidate: Candidate, splits: DataSplits) -> None:
        """Look whether `candidate` can be trained on `splits`; DataError if its input or classes differ."""
        check_images_fit(candidate, splits)
        if splits.boxes:
            raise DataError(
                f"{splits.name} has boxes, and the network is a classifier; train ssdlite+{candidate.notation:.40}..., "
                f"or search with --task detection"
            )

    def train_split(self, split: Split, recipe: Recipe) -> Split:
        """Return `split`, which has its own augmentation."""
        return split

    def loss(self, network: nn.Module, recipe: Recipe, group: ProcessGroup) -> LossOf:
        """Return the cross-entropy."""
        return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def evaluate(self, network: nn.Module, split: Split, normalization: Normalization) -> Score:
        """Return top-1 and top-5 accuracy; TrainingError if the outputs are infinite or not numbers."""
        network.eval()
        device = str(next(network.parameters()).device)
        # Counted on the device: to ask for each batch's number would wait for it.
        hits = torch.zeros(2, dtype=torch.int64, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        seen = 0
        with torch.inference_mode():
            for batch in split.eval_batches(batch_size=self.batch_size):
                images, labels = place(batch, normalization, device)
                logits = network(images)
                finite &= torch.isfinite(logits).all()
                best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
                hits += torch.stack([(logits.argmax(dim=1) == labels).sum(), best.any(dim=1).sum()])
                seen += len(labels)
        if not bool(finite):
            raise TrainingError("the trained network's outputs are not finite numbers")
        top1, top5 = (int(count) / seen for count in hits)
        return Score(TOP_1, {"top1": top1, "top5": top5}, seen)


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
