"""The anchors of published detectors: how many, where, and of which shape."""

from __future__ import annotations

import math

import pytest
import torch

from tvm_mnas.models.detection.anchors import AnchorMap, boxes_of, ssd_maps, ssdlite_maps

SSDLITE_SIZES = (20, 10, 5, 3, 2, 1)
SSD300 = (300, (38, 19, 10, 5, 3, 1), (21, 45, 99, 153, 207, 261, 315))
SSD512 = (
    512,
    (64, 32, 16, 8, 4, 2, 1),
    (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
)


def test_ssdlite_has_as_many_as_its_predictions() -> None:
    maps = ssdlite_maps(SSDLITE_SIZES)
    assert [len(one.shapes) for one in maps] == [3, 6, 6, 6, 6, 6]
    assert len(boxes_of(maps)) == sum(one.count for one in maps) == 3 * 400 + 6 * 139


@pytest.mark.parametrize(("published", "count"), [(SSD300, 8732), (SSD512, 24564)])
def test_ssd_has_as_many_as_its_paper_says(
    published: tuple[int, tuple[int, ...], tuple[float, ...]], count: int
) -> None:
    assert len(boxes_of(ssd_maps(*published))) == count


def test_shapes_have_the_area_of_their_scale_and_their_ratio() -> None:
    maps = ssdlite_maps(SSDLITE_SIZES)
    scales = [0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
    for one, scale in list(zip(maps, scales, strict=True))[1:]:
        areas = [math.sqrt(width * height) for width, height in one.shapes[:5]]
        assert areas == pytest.approx([scale] * 5)
        ratios = [width / height for width, height in one.shapes]
        assert ratios == pytest.approx([1, 2, 1 / 2, 3, 1 / 3, 1])
    assert maps[0].shapes[0] == pytest.approx((0.1, 0.1))
    assert maps[-1].shapes[-1] == pytest.approx((math.sqrt(0.95),) * 2)


def test_anchors_go_through_a_map_in_rows_and_all_shapes_of_a_pixel_in_turn() -> None:
    maps = [AnchorMap(2, ((0.5, 0.25), (1.0, 1.0))), AnchorMap(1, ((0.3, 0.3),))]
    expected = [
        (0.25, 0.25, 0.5, 0.25),
        (0.25, 0.25, 1.0, 1.0),
        (0.75, 0.25, 0.5, 0.25),
        (0.75, 0.25, 1.0, 1.0),
        (0.25, 0.75, 0.5, 0.25),
        (0.25, 0.75, 1.0, 1.0),
        (0.75, 0.75, 0.5, 0.25),
        (0.75, 0.75, 1.0, 1.0),
        (0.5, 0.5, 0.3, 0.3),
    ]
    torch.testing.assert_close(boxes_of(maps), torch.tensor(expected))


@pytest.mark.parametrize(
    ("size", "shapes"), [(0, ((0.1, 0.1),)), (3, ()), (3, ((0.0, 0.1),)), (3, ((math.nan, 0.1),))]
)
def test_a_map_without_pixels_or_area_is_refused(
    size: int, shapes: tuple[tuple[float, float], ...]
) -> None:
    with pytest.raises(ValueError, match="not"):
        AnchorMap(size, shapes)


def test_maps_and_edges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 maps have 3 edges, not 2"):
        ssd_maps(300, (4, 2), (30, 60))
    with pytest.raises(ValueError, match="two maps or more, not 1"):
        ssdlite_maps((4,))
