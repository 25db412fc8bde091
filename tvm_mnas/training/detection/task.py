"""Detectors as a task: the losses of boxes and classes, and COCO's mean average precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tvm_mnas.errors import DataError
from tvm_mnas.models.detection.coding import centered, corners
from tvm_mnas.models.detection.decoding import SsdDecoder
from tvm_mnas.models.detection.detector import Detector, rows_of
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION, Score
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import DataSplits, Split
from tvm_mnas.training.detection.augmentation import Augmentation
from tvm_mnas.training.detection.losses import ClassLoss, FocalLoss, HardNegativeLoss, box_loss
from tvm_mnas.training.detection.precision import FoundObject, average_precision, check_installed
from tvm_mnas.training.detection.splits import DetectionSplit
from tvm_mnas.training.detection.targets import BACKGROUND, Matching
from tvm_mnas.training.processes import ProcessGroup
from tvm_mnas.training.recipe import FOCAL, Recipe
from tvm_mnas.training.task import LossOf, check_images_fit, place

_MATCHING = Matching()


@dataclass(frozen=True, slots=True)
class Detection:
    """Where in an image objects are, and of which class."""

    batch_size: int = 16

    def check_fit(self, candidate: Candidate, splits: DataSplits) -> None:
        """Look whether `candidate` can be trained on `splits`, and judged.

        Raises:
            DataError: if it does not fit, or they have no boxes.
            UsageError: if what counts its precision is not installed.
        """
        check_installed()
        check_images_fit(candidate, splits)
        _boxed(splits.train, splits.name)

    def train_split(self, split: Split, recipe: Recipe) -> Split:
        """Return `split` with the recipe's augmentation."""
        how = Augmentation(expansion=recipe.expansion, crops=recipe.crops, colour=recipe.colour)
        return _boxed(split, "the data").augmented(how)

    def loss(self, network: nn.Module, recipe: Recipe, group: ProcessGroup) -> LossOf:
        """Return the loss of `network`'s predictions."""
        assert isinstance(network, Detector) and isinstance(network.decoder, SsdDecoder)
        scoring = network.decoder.scoring
        classes: ClassLoss = HardNegativeLoss(scoring=scoring)
        if recipe.class_loss == FOCAL:
            classes = FocalLoss()
        return DetectionLoss(network.decoder, classes, recipe.box_weight, group)

    def evaluate(self, network: nn.Module, split: Split, normalization: Normalization) -> Score:
        """Return COCO's averages: mAP over overlaps, at two of them, and by the size of objects where there are any."""
        boxed = _boxed(split, "the data")
        network.eval()
        device = str(next(network.parameters()).device)
        found: list[list[FoundObject]] = []
        images = []
        with torch.inference_mode():
            for batch in boxed.eval_batches(batch_size=self.batch_size):
                pixels, places = place(batch, normalization, device)
                for index, rows in zip(places.tolist(), rows_of(network(pixels)), strict=True):
                    image = boxed.data.images[index]
                    images.append(image)
                    found.append([_in_pixels(row, image.width, image.height) for row in rows])
        precision = average_precision(replace(boxed.data, images=tuple(images)), found)
        named = {
            "map": precision.overall or 0.0,
            "map_50": precision.at_50,
            "map_75": precision.at_75,
            "map_small": precision.small,
            "map_medium": precision.medium,
            "map_large": precision.large,
        }
        measures = {name: value for name, value in named.items() if value is not None}
        return Score(MEAN_AVERAGE_PRECISION, measures, len(images))


@dataclass(frozen=True)
class DetectionLoss:
    """The loss of classes, and `box_weight` times that of boxes, over the objects of the batch of all processes."""

    decoder: SsdDecoder
    classes: ClassLoss
    box_weight: float
    group: ProcessGroup
    matching: Matching = _MATCHING

    def __call__(self, predictions: tuple[Tensor, Tensor], objects: Tensor) -> Tensor:
        """Return the loss of predictions (N,A,4), (N,A,1+C) for `objects` (N,O,6), as `DetectionSplit` has them."""
        offsets, logits = (one.float() for one in predictions)
        labels, wanted = self._targets(objects, offsets)
        count = self.group.mean((labels > BACKGROUND).sum().float())
        total = self.classes(logits, labels) + self.box_weight * box_loss(offsets, wanted, labels)
        return total / max(count, 1.0 / self.group.size)

    def _targets(self, objects: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels (N,A) and offsets (N,A,4) that the predictions should have."""
        # On the CPU, where one small step after the other costs least.
        anchors = self.decoder.anchors.cpu()
        labels, boxes = [], []
        for image in objects.cpu():
            real = image[image[:, 4] >= 0]
            targets = self.matching.targets(
                real[:, :4], real[:, 4].long(), real[:, 5] > 0, corners(anchors)
            )
            labels.append(targets.labels)
            # Where there is no object the offsets say nothing, but a logarithm of nothing would be no number.
            known = targets.labels > BACKGROUND
            boxes.append(torch.where(known[:, None], centered(targets.boxes), anchors))
        wanted = self.decoder.coding.encode(torch.stack(boxes), anchors)
        return torch.stack(labels).to(like.device), wanted.to(like.device)


def _boxed(split: Split, name: str) -> DetectionSplit:
    if not isinstance(split, DetectionSplit):
        raise DataError(
            f"a detector is trained on images with boxes, and {name} has none; take coco:PATH, voc:PATH, yolo:PATH, "
            f"or drawn"
        )
    return split


def _in_pixels(row: tuple[float, ...], width: int, height: int) -> FoundObject:
    left, top, right, bottom, score, label = row
    box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
    assert all(map(math.isfinite, box))
    return FoundObject(box, int(label), score)
