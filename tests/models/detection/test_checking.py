"""What is no result of suppression is found, and what rounding changes passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tvm_mnas.models.detection.checking import Array, unexplained
from tvm_mnas.models.detection.suppression import SuppressionRule, suppress

RULE = SuppressionRule(score_threshold=0.05, overlap_threshold=0.5, total=20, candidates=60)
OFF = 1e-4


def _predicted(seed: int = 0, anchors: int = 80) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.7, (anchors, 2))
    boxes = np.concatenate([low, low + random.uniform(0.05, 0.3, (anchors, 2))], 1)
    return boxes, random.uniform(0, 1, (anchors, 3))


def _rows(boxes: Array, scores: Array) -> Array:
    rows: Array = suppress(torch.tensor(boxes)[None], torch.tensor(scores)[None], RULE)[0].numpy()
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_suppression_itself_passes_and_so_does_that_of_what_rounding_changed(seed: int) -> None:
    boxes, scores = _predicted(seed)
    assert unexplained(_rows(boxes, scores), boxes, scores, RULE, off=OFF) == (None, 0.0)
    random = np.random.default_rng(seed)
    moved = boxes + random.uniform(-OFF, OFF, boxes.shape) / 2
    # Whole steps in the scores make many equal, so that hardly an order stays.
    coarse = np.round(scores, 2)
    other = coarse + random.uniform(-OFF, OFF, scores.shape) / 2
    wrong, off = unexplained(_rows(moved, other), boxes, coarse, RULE, off=OFF)
    assert wrong is None
    assert 0 < off <= OFF


def _moved(rows: Array) -> None:
    rows[3, 0] += 0.01


def _relabelled(rows: Array) -> None:
    rows[0, 5] = (rows[0, 5] + 1) % 3


def _of_no_class(rows: Array) -> None:
    rows[0, 5] = 7


def _twice(rows: Array) -> None:
    rows[1] = rows[0]


def _exchanged(rows: Array) -> None:
    rows[[0, 9]] = rows[[9, 0]]


def _emptied(rows: Array) -> None:
    rows[4:] = 0
    rows[4:, 5] = -1


def _with_a_gap(rows: Array) -> None:
    rows[2] = [0, 0, 0, 0, 0, -1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_moved, "row 4 is no box that was predicted"),
        (_relabelled, "row 1 is no box that was predicted"),
        (_of_no_class, "row 1 is no box that was predicted"),
        (_twice, "two of a class overlap"),
        (_exchanged, "scores do not fall"),
        (_emptied, "is missing"),
        (_with_a_gap, "rows without a box are behind the others"),
    ],
)
def test_what_is_wrong_is_named(damage: Callable[[Array], None], words: str) -> None:
    boxes, scores = _predicted()
    rows = _rows(boxes, scores)
    damage(rows)
    wrong, _ = unexplained(rows, boxes, scores, RULE, off=OFF)
    assert wrong is not None and words in wrong


def test_another_number_of_rows_is_wrong() -> None:
    boxes, scores = _predicted()
    wrong, _ = unexplained(_rows(boxes, scores)[:5], boxes, scores, RULE, off=OFF)
    assert wrong == "they are (5, 6), not (20, 6)"
