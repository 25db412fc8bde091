"""Of the boxes that a detector predicts those that stay: greedy non-maximum suppression, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvm_mnas.models.detection.coding import overlaps


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionRule:
    """Which boxes stay.

    Of each class those whose score is above `score_threshold` are taken by falling score, the earlier anchor first
    where scores are equal; one that overlaps a box that was taken by more than `overlap_threshold` goes. At most
    `per_class` of a class stay, and at most `total` of an image.

    Raises:
        ValueError: if a number is out of its range.
    """

    score_threshold: float = 0.05
    overlap_threshold: float = 0.6
    per_class: int = 100
    total: int = 100

    def __post_init__(self) -> None:
        for name in ("score_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is 0..1, not {value}")
        for name in ("per_class", "total"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Detections:
    """An image's objects by falling score: `boxes` (K,4), left, top, right, bottom; `scores`, `classes` (K,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def suppress(boxes: Tensor, scores: Tensor, rule: SuppressionRule) -> Detections:
    """Return what stays by `rule` of `boxes` (A,4), left, top, right, bottom, whose classes score `scores` (A,C).

    Where scores are equal the lower class comes first, and in a class the earlier anchor.
    """
    kept_anchors, kept_classes = [], []
    for label in range(scores.shape[1]):
        anchors = _kept(boxes, scores[:, label], rule)
        kept_anchors.append(anchors)
        kept_classes.append(torch.full_like(anchors, label))
    anchors, classes = torch.cat(kept_anchors), torch.cat(kept_classes)
    found = scores[anchors, classes]
    order = torch.argsort(found, descending=True, stable=True)[: rule.total]
    return Detections(boxes[anchors[order]], found[order], classes[order])


def _kept(boxes: Tensor, scores: Tensor, rule: SuppressionRule) -> Tensor:
    """Return the anchors of one class that stay, by falling score."""
    above = torch.nonzero(scores > rule.score_threshold).flatten()
    order = above[torch.argsort(scores[above], descending=True, stable=True)]
    overlapping = overlaps(boxes[order], boxes[order]) > rule.overlap_threshold
    alive = torch.ones(len(order), dtype=torch.bool)
    kept: list[int] = []
    for at in range(len(order)):
        if len(kept) == rule.per_class:
            break
        if alive[at]:
            kept.append(at)
            alive &= ~overlapping[at]
    return order[kept]
