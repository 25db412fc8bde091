"""Of the boxes that a detector predicts those that stay: greedy non-maximum suppression, class by class.

It is one operator, `tvm_mnas::suppress`, so that a graph of a detector has a single node for it, which the compiler
has code of its own for (`compiler/lowering/suppression.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tvm_mnas.models.detection.coding import overlaps

ROW = 6
"""Numbers in a row of detections: left, top, right, bottom, score and class."""
NO_CLASS = -1.0
"""The class of a row in which nothing was found; its other numbers are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionRule:
    """Which boxes stay.

    Of all pairs of an anchor and a class the `candidates` with the highest scores take part, as far as these are above
    `score_threshold`. They are taken by falling score; one that overlaps a box of its class that was taken by more than
    `overlap_threshold` goes. At most `per_class` of a class stay, and at most `total` of an image. Where scores are
    equal the lower class comes first, and in a class the earlier anchor.

    `candidates` bound what suppression can cost, whatever an image shows.

    Raises:
        ValueError: if a number is out of its range.
    """

    score_threshold: float = 0.001
    overlap_threshold: float = 0.6
    per_class: int = 100
    total: int = 100
    candidates: int = 1000

    def __post_init__(self) -> None:
        for name in ("score_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is 0..1, not {value}")
        for name in ("per_class", "total", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")


def suppress(
    boxes: Tensor, scores: Tensor, rule: SuppressionRule, *, logits: bool = False
) -> Tensor:
    """Return what stays by `rule`, (N,total,6), of `boxes` (N,A,4), whose classes score `scores` (N,A,C).

    Boxes are left, top, right, bottom. A row has the four of a box, its score and its class, by falling score; rows
    without a box are 0, 0, 0, 0, 0, -1. `logits` are scores before their sigmoid, which keeps their order: only those
    of the rows that stay are computed.
    """
    detections: Tensor = torch.ops.tvm_mnas.suppress(
        boxes,
        scores,
        rule.score_threshold,
        rule.overlap_threshold,
        rule.per_class,
        rule.total,
        rule.candidates,
        logits,
    )
    return detections


def threshold_of(rule: SuppressionRule, *, logits: bool) -> float:
    """Return what scores are above: the rule's threshold, or the logit of it."""
    threshold = rule.score_threshold
    if not logits:
        return threshold
    if threshold in (0.0, 1.0):
        return math.inf if threshold else -math.inf
    return math.log(threshold / (1 - threshold))


@torch.library.custom_op("tvm_mnas::suppress", mutates_args=())
def _suppress(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    overlap_threshold: float,
    per_class: int,
    total: int,
    candidates: int,
    logits: bool,
) -> Tensor:
    rule = SuppressionRule(
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        per_class=per_class,
        total=total,
        candidates=candidates,
    )
    return torch.stack([_of_image(*one, rule, logits) for one in zip(boxes, scores, strict=True)])


@_suppress.register_fake
def _suppressed_shape(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    overlap_threshold: float,
    per_class: int,
    total: int,
    candidates: int,
    logits: bool,
) -> Tensor:
    return boxes.new_empty((boxes.shape[0], total, ROW))


def _of_image(boxes: Tensor, scores: Tensor, rule: SuppressionRule, logits: bool) -> Tensor:
    """Return the rows (total,6) of one image."""
    rows = boxes.new_zeros((rule.total, ROW))
    rows[:, 5] = NO_CLASS
    # By classes and then by anchors: a stable order has ties as the rule has them.
    flat = scores.t().reshape(-1)
    above = torch.nonzero(flat > threshold_of(rule, logits=logits)).flatten()
    chosen = above[torch.argsort(flat[above], descending=True, stable=True)][: rule.candidates]
    classes, anchors = chosen // len(boxes), chosen % len(boxes)
    kept = _kept(boxes[anchors], classes, rule)
    count = len(kept)
    rows[:count, :4] = boxes[anchors[kept]]
    found = flat[chosen[kept]]
    rows[:count, 4] = torch.sigmoid(found) if logits else found
    rows[:count, 5] = classes[kept].to(rows.dtype)
    return rows


def _kept(boxes: Tensor, classes: Tensor, rule: SuppressionRule) -> Tensor:
    """Return which of candidates by falling score stay."""
    suppressing = (overlaps(boxes, boxes) > rule.overlap_threshold) & (
        classes[:, None] == classes[None, :]
    )
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept: list[int] = []
    of_class: dict[int, int] = {}
    for at, label in enumerate(classes.tolist()):
        if len(kept) == rule.total:
            break
        if not alive[at] or of_class.get(label, 0) == rule.per_class:
            continue
        kept.append(at)
        of_class[label] = of_class.get(label, 0) + 1
        alive &= ~suppressing[at]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)
