"""From raw predictions to boxes and the scores of their classes, as modules that compile with a network."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

from tvm_mnas.models.detection.anchors import AnchorMap, boxes_of
from tvm_mnas.models.detection.coding import BoxCoding, corners

_SSD_CODING = BoxCoding()


class Scoring(StrEnum):
    """How the logits of an anchor become scores; the first of them is the background's either way."""

    SOFTMAX = "softmax"
    """One class of all, as in SSD."""
    SIGMOID = "sigmoid"
    """Each class for itself, as in SSDLite; the background's logit says nothing."""


class SsdDecoder(nn.Module):
    """Offsets (N,A,4), logits (N,A,1+C) -> boxes (N,A,4), left, top, right, bottom in 0..1, and scores (N,A,C)."""

    def __init__(
        self, maps: Sequence[AnchorMap], *, scoring: Scoring, coding: BoxCoding = _SSD_CODING
    ) -> None:
        super().__init__()
        self.scoring = scoring
        self.coding = coding
        self.anchors: Tensor
        # They follow from the maps, and are no weights.
        self.register_buffer("anchors", boxes_of(maps), persistent=False)

    def forward(self, predictions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the boxes and the scores that are predicted."""
        boxes, ranked = self.ranked(predictions)
        return boxes, torch.sigmoid(ranked) if self.ranks_logits else ranked

    def ranked(self, predictions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the boxes, and what is in the order of the scores: logits where each is a sigmoid of its own."""
        offsets, logits = predictions
        boxes = corners(self.coding.decode(offsets, self.anchors)).clamp(0, 1)
        if self.ranks_logits:
            return boxes, logits[..., 1:]
        return boxes, torch.softmax(logits, -1)[..., 1:]

    @property
    def ranks_logits(self) -> bool:
        """Whether `ranked` returns logits."""
        return self.scoring is Scoring.SIGMOID


YOLO_V2_ANCHORS = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)
"""Width and height in pixels of the map (github.com/pjreddie/darknet, cfg/yolov2.cfg)."""


class YoloDecoder(nn.Module):
    """Predictions (N,B*(5+C),S,S) -> boxes (N,S*S*B,4), left, top, right, bottom in 0..1, and scores (N,S*S*B,C).

    A center is the sigmoid of its logits from the corner of its pixel, a size the exponential of its logits times the
    anchor's, a score the sigmoid of the objectness times the softmax of the classes (Redmon and Farhadi 2017,
    section 2).
    """

    def __init__(self, size: int, shapes: Sequence[tuple[float, float]] = YOLO_V2_ANCHORS) -> None:
        super().__init__()
        self.shapes = len(shapes)
        # The corner of an anchor's pixel, and its width and height, all in parts of the image.
        maps = [AnchorMap(size, tuple((width / size, height / size) for width, height in shapes))]
        anchors = boxes_of(maps)
        self.size = size
        self.low: Tensor
        self.scale: Tensor
        self.register_buffer("low", anchors[:, :2] - 0.5 / size, persistent=False)
        self.register_buffer("scale", anchors[:, 2:], persistent=False)

    ranks_logits = False

    def forward(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes and the scores that are predicted."""
        return self.ranked(predictions)

    def ranked(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes and their scores."""
        by_pixel = predictions.permute(0, 2, 3, 1).flatten(1)
        values = predictions.shape[1] // self.shapes
        each = torch.unflatten(by_pixel, 1, (-1, values))
        centers = self.low + torch.sigmoid(each[..., :2]) / self.size
        sizes = self.scale * torch.exp(each[..., 2:4])
        boxes = corners(torch.cat([centers, sizes], -1))
        scores = torch.sigmoid(each[..., 4:5]) * torch.softmax(each[..., 5:], -1)
        return boxes.clamp(0, 1), scores
