"""Boxes as a detector predicts them, offsets from anchors, and as people read them: decoding, encoding, overlap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxCoding:
    """How offsets are scaled: those of a center are divided by `center` of the anchor's size, logarithms by `size`.

    0.1 and 0.2 in SSD (Liu et al. 2016, github.com/weiliu89/caffe, `prior_variance`), and in SSDLite as the inverse
    `y_scale`, `x_scale` of 10 and `height_scale`, `width_scale` of 5.
    """

    center: float = 0.1
    size: float = 0.2

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the offsets (...,A,4) of `boxes` (...,A,4) from `anchors` (A,4), both center x, y, width, height."""
        centers = (boxes[..., :2] - anchors[..., :2]) / (anchors[..., 2:] * self.center)
        sizes = torch.log(boxes[..., 2:] / anchors[..., 2:]) / self.size
        return torch.cat([centers, sizes], -1)

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes (...,A,4), center x, y, width, height, that lie `offsets` (...,A,4) from `anchors` (A,4)."""
        centers = anchors[..., :2] + offsets[..., :2] * self.center * anchors[..., 2:]
        sizes = anchors[..., 2:] * torch.exp(offsets[..., 2:] * self.size)
        return torch.cat([centers, sizes], -1)


def corners(boxes: Tensor) -> Tensor:
    """Return `boxes` (...,4), center x, y, width, height, as (left, top, right, bottom)."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def centered(boxes: Tensor) -> Tensor:
    """Return `boxes` (...,4), left, top, right, bottom, as (center x, center y, width, height)."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def overlaps(some: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over the union, (A,B), of `some` (A,4) and `others` (B,4): left, top, right, bottom.

    0 where neither has an area.
    """
    left_top = torch.maximum(some[:, None, :2], others[None, :, :2])
    right_bottom = torch.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(-1)
    union = _areas(some)[:, None] + _areas(others)[None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
