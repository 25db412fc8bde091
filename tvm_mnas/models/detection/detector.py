"""A whole detector: a network's predictions, turned into boxes and scores, of which suppression leaves a few."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tvm_mnas.models.detection.decoding import SsdDecoder, YoloDecoder
from tvm_mnas.models.detection.suppression import NO_CLASS, SuppressionRule, suppress


class Detector(nn.Module):
    """Images (N,3,S,S) -> detections (N,total,6) by `rule`; in training mode, `network`'s raw predictions.

    A row is left, top, right, bottom in 0..1 of the image, score and class, by falling score; the class of a row
    without a box is -1.
    """

    def __init__(
        self, network: nn.Module, decoder: SsdDecoder | YoloDecoder, rule: SuppressionRule
    ) -> None:
        super().__init__()
        self.network = network
        self.decoder = decoder
        self.rule = rule

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the detections in `images`, or raw predictions in training mode."""
        predictions: Any = self.network(images)
        if self.training:
            return predictions  # type: ignore[no-any-return]
        boxes, ranked = self.decoder.ranked(predictions)
        return suppress(boxes, ranked, self.rule, logits=self.decoder.ranks_logits)


class Decoded(nn.Module):
    """A detector up to suppression: images (N,3,S,S) -> boxes (N,A,4) and scores (N,A,C).

    For formats that have no operator for it.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = detector.network
        self.decoder = detector.decoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the boxes and the scores that are predicted."""
        boxes, scores = self.decoder(self.network(images))
        return boxes, scores


class Explained(Decoded):
    """A detector up to suppression, and what its network predicts: images -> boxes, scores, predictions."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the boxes and the scores, and all that the network predicts."""
        predictions = self.network(images)
        boxes, scores = self.decoder(predictions)
        raw = predictions if isinstance(predictions, tuple) else (predictions,)
        return (boxes, scores, *raw)


def rows_of(detections: Tensor) -> list[list[tuple[float, ...]]]:
    """Return the rows of detections (N,total,6) in which something was found, image by image."""
    found = []
    for image in torch.as_tensor(detections):
        found.append([tuple(row) for row in image.tolist() if row[5] != NO_CLASS])
    return found
