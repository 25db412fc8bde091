"""What detectors predict with: for each anchor of each feature map, four box offsets and one logit a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BOX = 4


class AnchorHeads(nn.Module):
    """One predictor of boxes and one of classes for each feature map.

    Maps (N,C,H,W) -> box offsets (N,A,4) and logits (N,A,classes).

    `boxes` and `classes` end with 4, or the number of classes, channels for each anchor of a pixel.
    """

    def __init__(
        self, boxes: Sequence[nn.Module], logits: Sequence[nn.Module], classes: int
    ) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(boxes)
        self.logits = nn.ModuleList(logits)
        self.classes = classes

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what is predicted for the anchors of all maps, one after the other."""
        offsets = [
            _by_anchor(box(features), BOX) for features, box in zip(maps, self.boxes, strict=True)
        ]
        logits = [
            _by_anchor(logit(features), self.classes)
            for features, logit in zip(maps, self.logits, strict=True)
        ]
        return torch.cat(offsets, 1), torch.cat(logits, 1)


def _by_anchor(predicted: Tensor, values: int) -> Tensor:
    """Return (N,A*values,H,W) as (N,H*W*A,values)."""
    # Without a look at the shape, which torch.fx does not know.
    return torch.unflatten(predicted.permute(0, 2, 3, 1).flatten(1), 1, (-1, values))
