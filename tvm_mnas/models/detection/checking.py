"""Whether detections are those that suppression leaves of given boxes and scores, but for rounding.

Two runs whose scores differ in the last place may take boxes in another order, and of two that overlap another one
stays. So detections are not compared with others: each must be a box that was predicted, no two of a class may overlap
too much, and whatever is missing must overlap one that is there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_mnas.models.detection.suppression import NO_CLASS, ROW, SuppressionRule

Array = NDArray[np.float64]
_LEAST_AREA = 1e-6
"""Of a union, in parts of the image: below it sides that are a little off make another overlap."""
_OVERLAP_SLACK = 64.0
"""An overlap may be off by so many times what a side may be off, since small boxes are sensitive."""


def unexplained(
    rows: Array, boxes: Array, scores: Array, rule: SuppressionRule, *, off: float
) -> tuple[str | None, float]:
    """Return what is wrong with the detections `rows` (total,6) of an image, and how far they are off at most.

    `boxes` (A,4) and `scores` (A,C) are what they were taken from; sides and scores may be `off` from those.
    """
    if rows.shape != (rule.total, ROW):
        return f"they are {rows.shape}, not {(rule.total, ROW)}", 0.0
    empty = rows[:, 5] == NO_CLASS
    found = rows[~empty]
    if empty[: len(found)].any() or np.abs(rows[empty, :5]).max(initial=0.0) > 0:
        return "rows without a box are behind the others, and 0", 0.0
    if (np.diff(found[:, 4]) > 0).any():
        return "their scores do not fall", 0.0
    worst = 0.0
    for number, row in enumerate(found):
        distance = _distance(row, boxes, scores)
        if distance is None or distance > off:
            return f"row {number + 1} is no box that was predicted", 0.0
        worst = max(worst, distance)
    slack = _OVERLAP_SLACK * off
    same = found[:, None, 5] == found[None, :, 5]
    shared = _overlaps(found[:, :4], found[:, :4], unknown=0.0) - np.eye(len(found))
    if (same & (shared > rule.overlap_threshold + slack)).any():
        return "two of a class overlap by more than the rule allows", worst
    return _missing(found, boxes, scores, rule, off, slack), worst


def _distance(row: Array, boxes: Array, scores: Array) -> float | None:
    """Return how far a row is from the box that is nearest to it in sides and score; None where it has no class."""
    label = int(row[5])
    if not 0 <= label < scores.shape[1]:
        return None
    sides = np.abs(boxes - row[:4]).max(1)
    return float(np.maximum(sides, np.abs(scores[:, label] - row[4])).min())


def _missing(
    found: Array, boxes: Array, scores: Array, rule: SuppressionRule, off: float, slack: float
) -> str | None:
    """Return that a box is missing, if one is."""
    cut = rule.score_threshold
    if len(found) == rule.total:
        cut = max(cut, float(found[:, 4].min()))
    if scores.size > rule.candidates:
        cut = max(cut, float(np.partition(scores, -rule.candidates, None)[-rule.candidates]))
    for anchor, label in np.argwhere(scores > cut + 2 * off):
        of_class = found[found[:, 5] == label]
        if len(of_class) >= rule.per_class:
            continue
        before = of_class[of_class[:, 4] >= scores[anchor, label] - 2 * off]
        shared = _overlaps(before[:, :4], boxes[anchor][None], unknown=1.0)
        if not (shared > rule.overlap_threshold - slack).any():
            return f"a box of class {label} and score {scores[anchor, label]:.3g} is missing"
    return None


def _overlaps(some: Array, others: Array, *, unknown: float) -> Array:
    """Return the intersection over the union (A,B), `unknown` where rounding decides whether there is any."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).clip(0).prod(1) for one in (some, others)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    known = union > _LEAST_AREA
    overlap: Array = np.divide(shared, union, out=np.full_like(shared, unknown), where=known)
    return overlap
