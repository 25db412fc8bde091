"""Suppression against a naive one that looks at one pair of boxes at a time, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mnas.models.detection.suppression import NO_CLASS, ROW, SuppressionRule, suppress

Found = list[tuple[float, int, int]]
"""Score, class and anchor."""


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - shared
    return float(shared / union) if union > 0 else 0.0


def _naive(boxes: np.ndarray, scores: np.ndarray, rule: SuppressionRule) -> Found:
    found: Found = []
    pairs = [(-scores[at, label], label, at) for at, label in np.ndindex(*scores.shape)]
    taking_part = {(at, label) for _, label, at in sorted(pairs)[: rule.candidates]}
    for label in range(scores.shape[1]):
        left = [
            at
            for at in range(len(boxes))
            if scores[at, label] > rule.score_threshold and (at, label) in taking_part
        ]
        kept: list[int] = []
        while left and len(kept) < rule.per_class:
            best = max(left, key=lambda at: (scores[at, label], -at))
            kept.append(best)
            left = [
                at
                for at in left
                if at != best and _overlap(boxes[best], boxes[at]) <= rule.overlap_threshold
            ]
        found += [(float(scores[at, label]), label, at) for at in kept]
    return sorted(found, key=lambda one: -one[0])[: rule.total]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    anchors=st.integers(0, 24),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    per_class=st.sampled_from([1, 3, 100]),
    total=st.sampled_from([1, 5, 100]),
    candidates=st.sampled_from([1, 7, 1000]),
)
def test_it_keeps_what_the_naive_one_keeps(
    seed: int, anchors: int, threshold: float, per_class: int, total: int, candidates: int
) -> None:
    random = np.random.default_rng(seed)
    # A coarse grid of places and scores, so that boxes and scores are often equal.
    low = random.integers(0, 4, (anchors, 2)) / 8
    boxes = np.concatenate([low, low + random.integers(1, 4, (anchors, 2)) / 8], 1)
    scores = random.integers(0, 5, (anchors, 3)) / 4
    rule = SuppressionRule(
        score_threshold=0.2,
        overlap_threshold=threshold,
        per_class=per_class,
        total=total,
        candidates=candidates,
    )
    rows = suppress(torch.tensor(boxes)[None], torch.tensor(scores)[None], rule)[0].numpy()
    expected = _naive(boxes, scores, rule)
    assert rows.shape == (total, ROW)
    found, empty = rows[: len(expected)], rows[len(expected) :]
    assert found[:, 4].tolist() == [score for score, _, _ in expected]
    assert found[:, 5].tolist() == [label for _, label, _ in expected]
    np.testing.assert_array_equal(
        found[:, :4], boxes[[anchor for _, _, anchor in expected]].reshape(-1, 4)
    )
    assert (empty == [0, 0, 0, 0, 0, NO_CLASS]).all()


def test_the_same_box_of_two_classes_stays_twice() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    rows = suppress(boxes[None], scores[None], SuppressionRule(total=2))[0]
    assert rows[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert rows[:, 5].tolist() == [0, 1]


def test_its_shape_is_known_without_computing_it() -> None:
    boxes, scores = torch.empty(2, 9, 4, device="meta"), torch.empty(2, 9, 3, device="meta")
    assert suppress(boxes, scores, SuppressionRule(total=7)).shape == (2, 7, ROW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", -0.1),
        ("overlap_threshold", 1.5),
        ("per_class", 0),
        ("total", 0),
        ("candidates", 0),
    ],
)
def test_a_rule_that_keeps_nothing_sensible_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, not {value}"):
        SuppressionRule(**{name: value})  # type: ignore[arg-type]
