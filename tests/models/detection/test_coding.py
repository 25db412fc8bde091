"""Boxes there and back, and how much they overlap, against pixels that are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_mnas.models.detection.coding import BoxCoding, centered, corners, overlaps


def _random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 4), generator=generator) * 0.8 + 0.1


@pytest.mark.parametrize("coding", [BoxCoding(), BoxCoding(center=1.0, size=1.0)])
def test_what_is_encoded_is_decoded_to_the_same(coding: BoxCoding) -> None:
    boxes, anchors = _random_boxes(50, 0), _random_boxes(50, 1)
    torch.testing.assert_close(coding.decode(coding.encode(boxes, anchors), anchors), boxes)


def test_no_offset_is_the_anchor() -> None:
    anchors = _random_boxes(5, 0)
    torch.testing.assert_close(BoxCoding().decode(torch.zeros(5, 4), anchors), anchors)


def test_offsets_are_scaled_as_published() -> None:
    anchor = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    offsets = torch.tensor([[1.0, -1.0, 5.0, 0.0]])
    expected = torch.tensor([[0.52, 0.46, 0.2 * float(np.e), 0.4]])
    torch.testing.assert_close(BoxCoding().decode(offsets, anchor), expected)


def test_corners_and_centers_are_inverse() -> None:
    boxes = _random_boxes(20, 0)
    torch.testing.assert_close(centered(corners(boxes)), boxes)
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(corners(whole), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))


def _counted(one: np.ndarray, other: np.ndarray) -> float:
    """Return the overlap of boxes of whole pixels by counting these."""
    some, others = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    some[one[1] : one[3], one[0] : one[2]] = True
    others[other[1] : other[3], other[0] : other[2]] = True
    union = (some | others).sum()
    return float((some & others).sum() / union) if union else 0.0


def test_overlaps_are_those_of_counted_pixels() -> None:
    random = np.random.default_rng(0)
    edges = np.sort(random.integers(0, 13, (30, 2, 2)), axis=1).reshape(30, 4)
    found = overlaps(torch.tensor(edges[:15]).float(), torch.tensor(edges[15:]).float())
    expected = [[_counted(one, other) for other in edges[15:]] for one in edges[:15]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_boxes_without_area_overlap_nothing() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert overlaps(point, point).item() == 0
    assert overlaps(point, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).item() == 0
