"""Annotations in COCO's JSON (cocodataset.org/#format-data): `images`, `annotations` and `categories`.

As data sets have them: category ids with gaps, images without an object, crowds, boxes that reach beyond their image or
have no area. The last two are cut or dropped, and counted; whatever else is wrong is one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvm_mnas.errors import DataError
from tvm_mnas.training.detection.annotations import (
    AnnotatedImage,
    DetectionSet,
    ObjectBox,
    within,
)


def read_coco(path: Path) -> DetectionSet:
    """Return the images and objects of a COCO annotation file; classes are in the order of their ids.

    Raises:
        DataError: the file cannot be read, is no such file, or an entry lacks what it needs or names what is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(path, status.st_mtime_ns, status.st_size)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"annotations cannot be read from {path} ({error}); check the file")


# The names of the classes are asked for before the images are, and COCO's file has half a gigabyte.
@lru_cache(maxsize=2)
def _read(path: Path, changed_ns: int, size_bytes: int) -> DetectionSet:
    """Return what `read_coco` does of the file that was last changed then and has this size."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    parts = {name: _part(path, content, name) for name in ("images", "categories", "annotations")}
    labels, names = _classes(path, parts["categories"])
    sizes = _images(path, parts["images"])
    objects: dict[int, list[ObjectBox]] = {image: [] for image in sizes}
    dropped = 0
    for number, entry in enumerate(parts["annotations"], 1):
        image = _value(path, "annotation", number, entry, "image_id", _WHOLE)
        category = _value(path, "annotation", number, entry, "category_id", _WHOLE)
        box = _value(path, "annotation", number, entry, "bbox", _BOX)
        for known, wanted, what in (
            (sizes, image, "image_id"),
            (labels, category, "category_id"),
        ):
            if wanted not in known:
                raise DataError(
                    f"{path}: annotation {number} has the {what} {wanted}, which nothing in the file has; "
                    f"leave the annotation out or add what it names"
                )
        area = None
        if entry.get("area") is not None:
            area = _value(path, "annotation", number, entry, "area", _AREA)
        _, width, height = sizes[image]
        found = within(
            box,
            width,
            height,
            label=labels[category],
            area=area,
            crowd=bool(entry.get("iscrowd", 0)),
        )
        if found is None:
            dropped += 1
        else:
            objects[image].append(found)
    images = tuple(
        AnnotatedImage(file, width, height, tuple(objects[image]))
        for image, (file, width, height) in sizes.items()
    )
    return DetectionSet(names, images, dropped)


def _part(path: Path, content: object, name: str) -> list[Mapping[str, Any]]:
    """Return the list `name` of the file's table."""
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or (not found and name != "annotations"):
        raise DataError(
            f"{path}: COCO's annotations are a table with images, annotations and categories, and {name} is "
            f"{'empty' if found == [] else 'no list'} here; check the file"
        )
    for number, entry in enumerate(found, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {name} are tables, and number {number} is {entry!r:.60}")
    return found


@dataclass(frozen=True, slots=True)
class _Kind:
    """What may stand under a key: the rule in words, and whether a value keeps to it."""

    rule: str
    holds: Callable[[Any], bool]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_WHOLE = _Kind("a whole number", _is_whole)
_PIXELS = _Kind("a whole number above 0", lambda value: _is_whole(value) and value > 0)
_TEXT = _Kind("a text", lambda value: isinstance(value, str) and value != "")
_BOX = _Kind(
    "four finite numbers, left, top, width and height",
    lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value)),
)
_AREA = _Kind("a number >= 0", lambda value: _is_finite(value) and value >= 0)


def _value(
    path: Path, what: str, number: int, entry: Mapping[str, Any], key: str, kind: _Kind
) -> Any:
    """Return what stands under `key` of an entry."""
    if key not in entry:
        raise DataError(f"{path}: each {what} has {key}, and {what} {number} has none")
    value = entry[key]
    if not kind.holds(value):
        raise DataError(f"{path}: {key} of {what} {number} must be {kind.rule}, not {value!r:.60}")
    return value


def _classes(
    path: Path, categories: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the classes by category id, and their names in the order of the ids."""
    names: dict[int, str] = {}
    for number, entry in enumerate(categories, 1):
        category = _value(path, "category", number, entry, "id", _WHOLE)
        if category in names:
            raise DataError(f"{path}: two categories have the id {category}; give each its own")
        names[category] = _value(path, "category", number, entry, "name", _TEXT)
    ordered = sorted(names)
    return {one: label for label, one in enumerate(ordered)}, tuple(names[one] for one in ordered)


def _images(path: Path, images: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, int, int]]:
    """Return file, width and height of each image by its id."""
    found: dict[int, tuple[str, int, int]] = {}
    for number, entry in enumerate(images, 1):
        image = _value(path, "image", number, entry, "id", _WHOLE)
        if image in found:
            raise DataError(f"{path}: two images have the id {image}; give each its own")
        found[image] = (
            _value(path, "image", number, entry, "file_name", _TEXT),
            _value(path, "image", number, entry, "width", _PIXELS),
            _value(path, "image", number, entry, "height", _PIXELS),
        )
    return found
