"""What each anchor is to predict: an object, the background, or nothing that counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvm_mnas.models.detection.coding import overlaps

BACKGROUND = 0
IGNORED = -1


@dataclass(frozen=True, slots=True)
class Targets:
    """What the anchors of an image are to predict.

    `labels` (A,) are `BACKGROUND`, `IGNORED`, or one more than an object's class; `boxes` (A,4), left, top, right,
    bottom, are those of the objects, and say nothing at other anchors.
    """

    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Which anchors are to predict an object (Liu et al. 2016, section 2.2, "Matching strategy").

    Each object has the anchor that overlaps it most, no two the same one; and every other anchor has the object that it
    overlaps most, if that is by `threshold` or more. An anchor of which more than `crowd_share` lies in a crowd, and
    that has no object, is ignored.
    """

    threshold: float = 0.5
    crowd_share: float = 0.5

    def targets(self, boxes: Tensor, labels: Tensor, crowds: Tensor, anchors: Tensor) -> Targets:
        """Return what `anchors` (A,4) are to predict of objects `boxes` (O,4), of classes `labels` (O,).

        All boxes are left, top, right, bottom. `crowds` (O,) of bool says which objects are crowds.
        """
        found = torch.full((len(anchors),), BACKGROUND, dtype=torch.long)
        towards = torch.zeros((len(anchors), 4), dtype=anchors.dtype)
        objects, kinds = boxes[~crowds], labels[~crowds]
        if len(objects):
            overlapping = overlaps(objects, anchors)
            most, which = overlapping.max(0)
            chosen = most >= self.threshold
            for one, anchor in _best_anchors(overlapping):
                which[anchor], chosen[anchor] = one, True
            found[chosen] = kinds[which[chosen]] + 1
            towards[chosen] = objects[which[chosen]].to(towards.dtype)
        if bool(crowds.any()):
            within = _shares(anchors, boxes[crowds]).amax(1) > self.crowd_share
            found[within & (found == BACKGROUND)] = IGNORED
        return Targets(found, towards)


def _best_anchors(overlapping: Tensor) -> list[tuple[int, int]]:
    """Return pairs of an object and its anchor, from overlaps (O,A): the largest first, no anchor twice.

    An object that overlaps no anchor has none, nor has one of more objects than anchors.
    """
    left = overlapping.clone()
    pairs = []
    for _ in range(min(left.shape)):
        best = int(left.argmax())
        one, anchor = divmod(best, left.shape[1])
        if left[one, anchor] <= 0:
            break
        pairs.append((one, anchor))
        left[one, :] = -1
        left[:, anchor] = -1
    return pairs


def _shares(anchors: Tensor, regions: Tensor) -> Tensor:
    """Return how much of each anchor (A,4) lies in each region (R,4): (A,R), 0..1."""
    left_top = torch.maximum(anchors[:, None, :2], regions[None, :, :2])
    right_bottom = torch.minimum(anchors[:, None, 2:], regions[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(-1)
    areas = (anchors[:, 2:] - anchors[:, :2]).prod(-1)
    return shared / areas[:, None].clamp(min=torch.finfo(areas.dtype).tiny)
