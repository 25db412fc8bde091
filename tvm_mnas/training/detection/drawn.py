"""Images with shapes on them, drawn as they are needed: a set to detect on that no machine lacks.

Circles, squares and triangles of COCO's three size classes lie on a background of noise and soft colours, each in a
colour of its own, and hardly cover each other. An image follows from its number and the seed.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tvm_mnas.training.detection.annotations import AnnotatedImage, DetectionSet, ObjectBox

CLASS_NAMES = ("circle", "square", "triangle")
SIZES = {"small": (20, 31), "medium": (36, 80), "large": (97, 125)}
"""Sides in pixels, the least and the most; COCO counts a box of less than 32^2 as small, of 96^2 and more as large."""
_MOST_OBJECTS = 4
_MOST_SHARED = 0.05
"""How much of the smaller of two objects' boxes the other may cover."""
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class _Shape:
    label: int
    left: int
    top: int
    side: int
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class DrawnImages:
    """`count` images of `size` x `size` pixels, drawn from `seed`; a store of them, and what is in them."""

    count: int
    seed: int
    size: int = 160

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Return what a person finds the image by."""
        return f"drawn-{self.seed}-{index:05d}"

    def open(self, index: int) -> io.BytesIO:
        """Return the image's bytes, as a bitmap."""
        file = io.BytesIO()
        self.draw(index).save(file, "BMP")
        file.seek(0)
        return file

    @cached_property
    def annotations(self) -> DetectionSet:
        """The images with the objects in them."""
        images = tuple(
            AnnotatedImage(
                f"{self.name(index)}.png",
                self.size,
                self.size,
                tuple(
                    ObjectBox(one.left, one.top, one.side, one.side, one.label, one.side**2)
                    for one in self._shapes(self._generator(index))
                ),
            )
            for index in range(self.count)
        )
        return DetectionSet(CLASS_NAMES, images)

    def draw(self, index: int) -> Image.Image:
        """Return the image."""
        rng = self._generator(index)
        shapes = self._shapes(rng)
        coarse = rng.integers(60, 196, size=(3, 3, 3)).astype(np.uint8)
        side = (self.size, self.size)
        soft = np.asarray(Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC))
        noise = rng.normal(0.0, 12.0, size=(*side, 1))
        background = (soft + noise).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(background)
        pen = ImageDraw.Draw(image)
        for shape in shapes:
            _draw(pen, shape)
        return image

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, index))

    def _shapes(self, rng: np.random.Generator) -> list[_Shape]:
        shapes: list[_Shape] = []
        for _ in range(int(rng.integers(1, _MOST_OBJECTS + 1))):
            least, most = SIZES[list(SIZES)[int(rng.integers(len(SIZES)))]]
            label = int(rng.integers(len(CLASS_NAMES)))
            colour = _strong_colour(rng)
            for _ in range(_ATTEMPTS):
                side = int(rng.integers(least, most + 1))
                left, top = (int(at) for at in rng.integers(0, self.size - side + 1, size=2))
                shape = _Shape(label, left, top, side, colour)
                if all(_shared(shape, other) <= _MOST_SHARED for other in shapes):
                    shapes.append(shape)
                    break
        return shapes


def write_coco(directory: Path, parts: dict[str, DrawnImages]) -> None:
    """Write images and COCO annotations: `DIRECTORY/PART/*.png` and `DIRECTORY/annotations/instances_PART.json`.

    As COCO does, category ids have gaps.
    """
    (directory / "annotations").mkdir(parents=True)
    for part, images in parts.items():
        (directory / part).mkdir()
        found = images.annotations
        for index, image in enumerate(found.images):
            images.draw(index).save(directory / part / image.file)
        numbered = list(enumerate(found.images, 1))
        content = {
            "images": [
                {"id": n, "file_name": one.file, "width": one.width, "height": one.height}
                for n, one in numbered
            ],
            "categories": [
                {"id": _category(label), "name": name} for label, name in enumerate(CLASS_NAMES)
            ],
            "annotations": [
                {
                    "id": n * 100 + place,
                    "image_id": n,
                    "category_id": _category(box.label),
                    "bbox": [box.left, box.top, box.width, box.height],
                    "area": box.area,
                    "iscrowd": 0,
                }
                for n, one in numbered
                for place, box in enumerate(one.objects)
            ],
        }
        file = directory / "annotations" / f"instances_{part}.json"
        file.write_text(json.dumps(content), encoding="utf-8")


def _category(label: int) -> int:
    return 10 * label + 3


def _draw(pen: ImageDraw.ImageDraw, shape: _Shape) -> None:
    left, top = shape.left, shape.top
    right, bottom = left + shape.side - 1, top + shape.side - 1
    if shape.label == 0:
        pen.ellipse((left, top, right, bottom), fill=shape.colour)
    elif shape.label == 1:
        pen.rectangle((left, top, right, bottom), fill=shape.colour)
    else:
        pen.polygon(((left, bottom), (right, bottom), ((left + right) / 2, top)), fill=shape.colour)


def _strong_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a bright or dark colour, which a background of middle ones does not have."""
    angle = rng.uniform(0, 2 * math.pi)
    around = [math.cos(angle + turn) for turn in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
    red, green, blue = (
        round(127.5 + math.copysign(127.5 * abs(value) ** 0.3, value)) for value in around
    )
    return red, green, blue


def _shared(one: _Shape, other: _Shape) -> float:
    """Return how much of the smaller box the other covers."""
    across = min(one.left + one.side, other.left + other.side) - max(one.left, other.left)
    down = min(one.top + one.side, other.top + other.side) - max(one.top, other.top)
    return max(across, 0) * max(down, 0) / min(one.side, other.side) ** 2
