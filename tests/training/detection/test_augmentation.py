"""Views on images: boxes move with the pixels, crops share what they should, and colours change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tvm_mnas.training.detection.augmentation import (
    WHOLE,
    Augmentation,
    draw_view,
    look,
    mirrored,
    recoloured,
    see,
)

BOXES = np.array([[0.25, 0.5, 0.5, 0.75], [0.5, 0.25, 0.75, 0.75]])


def image_of(boxes: np.ndarray, size: int = 128) -> Image.Image:
    """A black image, the first box red and the second green."""
    pixels = np.zeros((size, size, 3), np.uint8)
    for channel, box in enumerate(boxes):
        left, top, right, bottom = (round(side * size) for side in box)
        pixels[top:bottom, left:right, channel] = 255
    return Image.fromarray(pixels)


def found_in(pixels: np.ndarray, channel: int) -> list[float]:
    """The box of what is bright in one channel and dark in the others, in parts of the image."""
    others = pixels[..., [one for one in range(3) if one != channel]].max(-1)
    rows, columns = np.nonzero((pixels[..., channel] > 200) & (others < 60))
    sides = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [side / len(pixels) for side in sides]


@pytest.mark.parametrize(
    "view", [WHOLE, (0.125, 0.125, 0.875, 0.875), (-0.5, -0.25, 1.5, 1.75), (0.2, -0.3, 0.9, 0.8)]
)
def test_boxes_move_with_the_pixels(view: tuple[float, float, float, float]) -> None:
    pixels = look(image_of(BOXES), view, 160)
    boxes, inside = see(BOXES, view)
    assert inside.all()
    for channel in range(2):
        assert found_in(pixels, channel) == pytest.approx(boxes[channel].tolist(), abs=2.5 / 160)


def test_beyond_the_image_it_is_grey() -> None:
    pixels = look(image_of(BOXES), (-1.0, -1.0, 1.0, 1.0), 64)
    assert (pixels[:31, :31] == (124, 116, 104)).all()
    assert (pixels[40:, 40:].min(-1) == 0).all()


def test_what_has_its_center_outside_is_not_seen() -> None:
    boxes, inside = see(BOXES, (0.0, 0.0, 0.45, 1.0))
    assert inside.tolist() == [True, False]
    assert boxes[0].tolist() == pytest.approx([0.25 / 0.45, 0.5, 1.0, 0.75])


def test_views_are_drawn_from_their_generator_and_keep_an_object() -> None:
    how = Augmentation()
    views = [draw_view(BOXES, how, np.random.default_rng(seed)) for seed in range(200)]
    assert views == [draw_view(BOXES, how, np.random.default_rng(seed)) for seed in range(200)]
    assert all(see(BOXES, view)[1].any() for view in views)
    larger = [view for view in views if view[2] - view[0] > 1]
    smaller = [view for view in views if view[2] - view[0] < 1]
    assert min(len(larger), len(smaller), views.count(WHOLE)) > 10
    assert max(view[2] - view[0] for view in views) <= 4


@pytest.mark.parametrize(
    ("how", "widest"),
    [(Augmentation(expansion=1.0), 1.0), (Augmentation(expansion=1.0, crops=False), 1.0)],
)
def test_what_is_off_stays_off(how: Augmentation, widest: float) -> None:
    views = [draw_view(BOXES, how, np.random.default_rng(seed)) for seed in range(50)]
    assert max(view[2] - view[0] for view in views) == widest
    assert (set(views) == {WHOLE}) == (not how.crops)


def test_without_an_object_nothing_is_cut() -> None:
    none = np.empty((0, 4))
    how = Augmentation(expansion=1.0)
    assert {draw_view(none, how, np.random.default_rng(seed)) for seed in range(20)} == {WHOLE}


def test_a_mirror_keeps_boxes_on_their_shapes() -> None:
    pixels, boxes = mirrored(look(image_of(BOXES), WHOLE, 128), BOXES)
    for channel in range(2):
        assert found_in(pixels, channel) == pytest.approx(boxes[channel].tolist(), abs=1 / 128)


def test_colours_change_by_their_strength() -> None:
    pixels = look(image_of(BOXES), WHOLE, 64)
    changed = [recoloured(pixels, 0.5, np.random.default_rng(seed)) for seed in range(20)]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in changed)
    assert sum(not np.array_equal(one, pixels) for one in changed) > 10
    for seed in range(5):
        assert np.array_equal(recoloured(pixels, 0.0, np.random.default_rng(seed)), pixels)
