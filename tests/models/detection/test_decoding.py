"""Predictions as boxes and scores, against arithmetic on one anchor at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tvm_mnas.models.detection.anchors import AnchorMap, boxes_of
from tvm_mnas.models.detection.decoding import (
    YOLO_V2_ANCHORS,
    Scoring,
    SsdDecoder,
    YoloDecoder,
)

MAPS = [AnchorMap(3, ((0.2, 0.3), (0.5, 0.4))), AnchorMap(1, ((0.9, 0.9),))]
CLASSES = 4


def _box(center_x: float, center_y: float, width: float, height: float) -> list[float]:
    edges = (
        center_x - width / 2,
        center_y - height / 2,
        center_x + width / 2,
        center_y + height / 2,
    )
    return [min(max(edge, 0.0), 1.0) for edge in edges]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("scoring", Scoring)
def test_ssd_decodes_each_anchor_by_itself(scoring: Scoring) -> None:
    anchors = boxes_of(MAPS).tolist()
    torch.manual_seed(0)
    offsets, scored = torch.randn(2, len(anchors), 4), torch.randn(2, len(anchors), 1 + CLASSES)
    boxes, scores = SsdDecoder(MAPS, scoring=scoring)((offsets, scored))
    for image in range(2):
        for at, (x, y, width, height) in enumerate(anchors):
            dx, dy, dw, dh = offsets[image, at].tolist()
            logits = scored[image, at].tolist()
            expected = _box(
                x + 0.1 * dx * width,
                y + 0.1 * dy * height,
                width * math.exp(0.2 * dw),
                height * math.exp(0.2 * dh),
            )
            assert boxes[image, at].tolist() == pytest.approx(expected, abs=1e-5)
            told = {
                Scoring.SOFTMAX: _softmax(logits)[1:],
                Scoring.SIGMOID: [_sigmoid(value) for value in logits[1:]],
            }
            assert scores[image, at].tolist() == pytest.approx(told[scoring], abs=1e-5)


def test_yolo_decodes_each_anchor_by_itself() -> None:
    size, shapes = 4, len(YOLO_V2_ANCHORS)
    torch.manual_seed(0)
    predictions = torch.randn(1, shapes * (5 + CLASSES), size, size)
    boxes, scores = YoloDecoder(size)(predictions)
    assert boxes.shape == (1, size * size * shapes, 4)
    grid = predictions.reshape(shapes, 5 + CLASSES, size, size).numpy()
    for row, column, shape in np.ndindex(size, size, shapes):
        dx, dy, dw, dh, objectness, *logits = grid[shape, :, row, column].tolist()
        width, height = YOLO_V2_ANCHORS[shape]
        expected = _box(
            (column + _sigmoid(dx)) / size,
            (row + _sigmoid(dy)) / size,
            width * math.exp(dw) / size,
            height * math.exp(dh) / size,
        )
        at = (row * size + column) * shapes + shape
        assert boxes[0, at].tolist() == pytest.approx(expected, abs=1e-5)
        told = [_sigmoid(objectness) * part for part in _softmax(logits)]
        assert scores[0, at].tolist() == pytest.approx(told, abs=1e-5)
