"""What detectors predict with: for each anchor of each feature map, four box offsets and one logit a class.

A detector here ends with these raw predictions: turning them into boxes and dropping those that overlap is no part of
its counts or its latency.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BOX = 4


class AnchorHeads(nn.Module):
    """One predictor of boxes and one of classes for each feature map: maps (N,C,H,W) -> (N,anchors,4+classes).

    `boxes` and `classes` end with 4, or the number of classes, channels for each anchor of a pixel.
    """

    def __init__(
        self, boxes: Sequence[nn.Module], logits: Sequence[nn.Module], classes: int
    ) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(boxes)
        self.logits = nn.ModuleList(logits)
        self.classes = classes

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what is predicted for the anchors of all maps, one after the other."""
        found = []
        for features, box, logit in zip(maps, self.boxes, self.logits, strict=True):
            parts = [_by_anchor(box(features), BOX), _by_anchor(logit(features), self.classes)]
            found.append(torch.cat(parts, 2))
        return torch.cat(found, 1)


def _by_anchor(predicted: Tensor, values: int) -> Tensor:
    """Return (N,A*values,H,W) as (N,H*W*A,values)."""
    # Without a look at the shape, which torch.fx does not know.
    return torch.unflatten(predicted.permute(0, 2, 3, 1).flatten(1), 1, (-1, values))
