"""Which task a network has: to tell classes apart, which is here, or to find objects (`detection/task.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tvm_mnas.errors import DataError, TrainingError
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.training.accuracy import TOP_1, Score
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import DataSplits, Split
from tvm_mnas.training.detection.task import Detection
from tvm_mnas.training.processes import ProcessGroup
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.task import LossOf, Task, check_images_fit, place


def task_of(candidate: Candidate) -> Task:
    """Return what `candidate` is for."""
    return Detection() if isinstance(candidate, DetectorArchitecture) else Classification()


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
