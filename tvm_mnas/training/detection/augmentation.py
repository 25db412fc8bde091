"""What an image with boxes goes through before a detector sees it: SSD's augmentation, or none.

A view is a window on an image, in parts of its width and height. It may reach beyond the image, which then is small in
a grey frame (expansion), or show a part of it (a crop); either way the image is scaled once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvm_mnas.training.data.images import Pixels

Boxes = NDArray[np.float64]
"""(O,4): left, top, right, bottom in parts of an image, 0..1."""
View = tuple[float, float, float, float]
WHOLE: View = (0.0, 0.0, 1.0, 1.0)

_OVERLAPS: tuple[float | None, ...] = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""What a crop shares with one object at least, None for no crop (Liu et al. 2016, section 2.2, "Data augmentation").

0.0 there is a crop at random.
"""
_CROP_ATTEMPTS = 50
_LEAST_SIDE = 0.3
_FRAME = (124, 116, 104)
"""The mean colour of ImageNet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How much an image is changed: `expansion` is by how much a frame may be larger than the image, 1 is none.

    `crops` cuts parts by what they share with objects; `colour` (0..1) is by how much brightness, contrast and
    saturation change; half of the images are mirrored.
    """

    expansion: float = 4.0
    crops: bool = True
    colour: float = 0.5


PUBLISHED = Augmentation()
"""SSD's own."""


def draw_view(boxes: Boxes, how: Augmentation, rng: np.random.Generator) -> View:
    """Return a view on an image with objects `boxes`, drawn from `rng`."""
    frame = WHOLE
    if how.expansion > 1 and rng.random() < 0.5:
        ratio = rng.uniform(1.0, how.expansion)
        left, top = rng.uniform(0.0, ratio - 1, size=2)
        frame = (-left, -top, ratio - left, ratio - top)
    if not how.crops or not len(boxes):
        return frame
    wanted = _OVERLAPS[int(rng.integers(len(_OVERLAPS)))]
    if wanted is None:
        return frame
    side = frame[2] - frame[0]
    for _ in range(_CROP_ATTEMPTS):
        width, height = rng.uniform(_LEAST_SIDE, 1.0, size=2)
        if not 0.5 <= width / height <= 2:
            continue
        left = frame[0] + side * rng.uniform(0.0, 1 - width)
        top = frame[1] + side * rng.uniform(0.0, 1 - height)
        view = (left, top, left + side * width, top + side * height)
        seen = _centers_in(boxes, view)
        if seen.any() and float(_shared(boxes[seen], view).max()) >= wanted:
            return view
    return frame


def see(boxes: Boxes, view: View) -> tuple[Boxes, NDArray[np.bool_]]:
    """Return `boxes` as parts of a view, cut at its edges, and which of them have their centers in it."""
    left, top, right, bottom = view
    scale = np.array([right - left, bottom - top] * 2)
    seen = (boxes - np.array([left, top] * 2)) / scale
    return seen.clip(0.0, 1.0), _centers_in(boxes, view)


def look(image: Image.Image, view: View, size: int) -> Pixels:
    """Return `view` on an RGB image as pixels uint8 (S,S,3) where S is `size`; grey where there is no image."""
    width, height = image.size
    left, top, right, bottom = (
        part * side for part, side in zip(view, (width, height) * 2, strict=True)
    )
    if view == WHOLE:
        return _resized(image, (size, size), (0.0, 0.0, float(width), float(height)))
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    across, down = size / (right - left), size / (bottom - top)
    at = (round((inside[0] - left) * across), round((inside[1] - top) * down))
    until = (round((inside[2] - left) * across), round((inside[3] - top) * down))
    shown = (max(1, until[0] - at[0]), max(1, until[1] - at[1]))
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = _FRAME
    part = _resized(image, shown, inside)
    room = pixels[at[1] : at[1] + shown[1], at[0] : at[0] + shown[0]]
    room[:] = part[: room.shape[0], : room.shape[1]]
    return pixels


def recoloured(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Return pixels uint8 (S,S,3) of another brightness, contrast and saturation, each with a chance of one half."""
    values = pixels.astype(np.float32)
    if rng.random() < 0.5:
        values += rng.uniform(-64.0, 64.0) * strength
    if rng.random() < 0.5:
        mean = values.mean()
        values = mean + (values - mean) * rng.uniform(1 - strength, 1 + strength)
    if rng.random() < 0.5:
        grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
        values = grey[..., None] + (values - grey[..., None]) * rng.uniform(
            1 - strength, 1 + strength
        )
    return values.clip(0, 255).astype(np.uint8)


def mirrored(pixels: Pixels, boxes: Boxes) -> tuple[Pixels, Boxes]:
    """Return an image and its boxes, left and right exchanged."""
    swapped = boxes.copy()
    swapped[:, 0], swapped[:, 2] = 1 - boxes[:, 2], 1 - boxes[:, 0]
    return np.ascontiguousarray(pixels[:, ::-1]), swapped


def _resized(image: Image.Image, size: tuple[int, int], box: Sequence[float]) -> Pixels:
    left, top, right, bottom = box
    # A window thinner than a pixel would be none.
    right, bottom = max(right, math.nextafter(left, math.inf)), max(bottom, math.nextafter(top, math.inf))  # fmt: skip
    small = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(small, dtype=np.uint8)


def _centers_in(boxes: Boxes, view: View) -> NDArray[np.bool_]:
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside: NDArray[np.bool_] = (x > view[0]) & (x < view[2]) & (y > view[1]) & (y < view[3])
    return inside


def _shared(boxes: Boxes, view: View) -> NDArray[np.float64]:
    """Return the intersection over the union of each box and a view."""
    low = np.maximum(boxes[:, :2], view[:2])
    high = np.minimum(boxes[:, 2:], view[2:])
    common = (high - low).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    whole: float = (view[2] - view[0]) * (view[3] - view[1])
    shared: NDArray[np.float64] = common / (areas + whole - common)
    return shared
