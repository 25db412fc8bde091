"""Images with boxes, whatever file they were annotated in: what reading a data set gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectBox:
    """An object in pixels of its image: the left upper corner, width and height, and its class, counted from 0.

    A `crowd` is a region of many that are not told apart: what is found there is neither right nor wrong. `area` is
    that of the object's outline where one is known, else the box's; by it COCO counts an object as small, medium or
    large.

    Raises:
        ValueError: if the box has no area, or a number is not finite.
    """

    left: float
    top: float
    width: float
    height: float
    label: int
    area: float
    crowd: bool = False

    def __post_init__(self) -> None:
        numbers = (self.left, self.top, self.width, self.height, self.area)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a box is of finite numbers, not {numbers}")
        if self.width <= 0 or self.height <= 0 or self.label < 0:
            raise ValueError(
                f"a box has an area and a class, not {self.width:g} x {self.height:g} of class {self.label}"
            )


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image's file below the data's root, its size in pixels, and the objects in it, of which there may be none."""

    file: str
    width: int
    height: int
    objects: tuple[ObjectBox, ...] = ()


@dataclass(frozen=True, slots=True)
class DetectionSet:
    """Annotated images of the classes that have these names; `dropped` boxes had no area or lay outside of their image.

    Raises:
        ValueError: if an object's class has no name.
    """

    class_names: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    dropped: int = 0

    def __post_init__(self) -> None:
        for image in self.images:
            for found in image.objects:
                if found.label >= len(self.class_names):
                    raise ValueError(
                        f"{image.file} has an object of class {found.label}, and there are {len(self.class_names)}"
                    )


def within(
    box: Sequence[float],
    width: float,
    height: float,
    *,
    label: int,
    area: float | None = None,
    crowd: bool = False,
) -> ObjectBox | None:
    """Return `box` (left, top, width, height), cut at the edges of an image; None where nothing of it is left.

    `area` is that of the object's outline, the box's own unless it is told.
    """
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[0] + box[2], float(width)), min(box[1] + box[3], float(height))
    if not (right > left and bottom > top):
        return None
    size = (right - left) * (bottom - top)
    return ObjectBox(
        left, top, right - left, bottom - top, label, size if area is None else area, crowd
    )
