"""Which anchor predicts which object, against a naive matching that looks at one pair at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mnas.models.detection.coding import overlaps
from tvm_mnas.training.detection.targets import BACKGROUND, IGNORED, Matching, Targets

Box = list[float]


def _targets(
    boxes: list[Box], labels: list[int], anchors: list[Box], crowds: list[bool]
) -> Targets:
    return Matching().targets(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.long),
        torch.tensor(crowds, dtype=torch.bool),
        torch.tensor(anchors),
    )


def test_each_object_has_the_anchor_that_overlaps_it_most() -> None:
    anchors = [[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]
    found = _targets([[0.0, 0.0, 0.2, 0.2]], [3], anchors, [False])
    assert found.labels.tolist() == [4, BACKGROUND]
    torch.testing.assert_close(found.boxes[0], torch.tensor([0.0, 0.0, 0.2, 0.2]))


def test_two_objects_do_not_share_their_best_anchor() -> None:
    anchors = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]]
    boxes = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.9, 1.0]]
    assert _targets(boxes, [0, 1], anchors, [False, False]).labels.tolist() == [1, 2]


def test_an_anchor_in_a_crowd_is_ignored_unless_it_has_an_object() -> None:
    anchors = [[0.0, 0.0, 0.2, 0.2], [0.3, 0.3, 0.5, 0.5], [0.8, 0.8, 1.0, 1.0]]
    boxes = [[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 0.6, 0.6]]
    found = _targets(boxes, [0, 0], anchors, [False, True])
    assert found.labels.tolist() == [1, IGNORED, BACKGROUND]


def test_an_empty_image_is_background() -> None:
    found = _targets([], [], [[0.0, 0.0, 0.2, 0.2]], [])
    assert found.labels.tolist() == [BACKGROUND]


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), objects=st.integers(1, 5), anchors=st.integers(1, 12))
def test_matches_are_those_of_a_naive_matching(seed: int, objects: int, anchors: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        low = torch.rand((count, 2), generator=generator) * 0.6
        return torch.cat([low, low + 0.1 + torch.rand((count, 2), generator=generator) * 0.3], 1)

    some, grid = boxes(objects), boxes(anchors)
    labels = torch.arange(objects)
    found = Matching(threshold=0.3).targets(some, labels, torch.zeros(objects).bool(), grid)
    table = overlaps(some, grid).tolist()
    expected = [BACKGROUND] * anchors
    for anchor in range(anchors):
        best = max(range(objects), key=lambda one: table[one][anchor])
        if table[best][anchor] >= 0.3:
            expected[anchor] = best + 1
    free_objects, free_anchors = set(range(objects)), set(range(anchors))
    while free_objects and free_anchors:
        one, anchor = max(
            ((one, anchor) for one in free_objects for anchor in free_anchors),
            key=lambda pair: table[pair[0]][pair[1]],
        )
        if table[one][anchor] <= 0:
            break
        expected[anchor] = one + 1
        free_objects.remove(one)
        free_anchors.remove(anchor)
    assert found.labels.tolist() == expected
    for anchor, label in enumerate(expected):
        if label > BACKGROUND:
            torch.testing.assert_close(found.boxes[anchor], some[label - 1])
