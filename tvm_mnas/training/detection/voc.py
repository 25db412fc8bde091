"""Annotations in Pascal VOC's XML: a file for each image in `Annotations/`, lists of images in `ImageSets/Main/`.

Corners are pixels counted from 1. An object that is marked as difficult is like a crowd: what is found there is neither
right nor wrong, as in VOC's own evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tvm_mnas.errors import DataError
from tvm_mnas.training.detection.annotations import (
    AnnotatedImage,
    DetectionSet,
    ObjectBox,
    within,
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(files: Sequence[Path], names: tuple[str, ...] | None = None) -> DetectionSet:
    """Return the images that the XML `files` tell of; classes are `names`, by default all that occur, sorted.

    Raises:
        DataError: a file cannot be read or lacks what it needs, or an object is of a class that is not in `names`.
    """
    trees = [(file, _root(file)) for file in files]
    if names is None:
        named = {_text(file, one, "name") for file, root in trees for one in root.iter("object")}
        names = tuple(sorted(named))
    labels = {name: label for label, name in enumerate(names)}
    images = []
    dropped = 0
    for file, root in trees:
        size = root.find("size")
        if size is None:
            raise DataError(f"{file}: an annotation has the image's size, and this one has none")
        width, height = (int(_number(file, size, key)) for key in ("width", "height"))
        if min(width, height) < 1:
            raise DataError(f"{file}: an image has pixels, not {width} x {height}; correct its size")  # fmt: skip
        objects: list[ObjectBox] = []
        for entry in root.iter("object"):
            found = _object(file, entry, labels, width, height)
            if found is None:
                dropped += 1
            else:
                objects.append(found)
        images.append(AnnotatedImage(_text(file, root, "filename"), width, height, tuple(objects)))
    return DetectionSet(names, tuple(images), dropped)


def _object(
    file: Path, entry: ElementTree.Element, labels: dict[str, int], width: int, height: int
) -> ObjectBox | None:
    name = _text(file, entry, "name")
    if name not in labels:
        raise DataError(
            f"{file} has an object of the class {name!r}, which no image for training has; leave it out"
        )
    box = entry.find("bndbox")
    if box is None:
        raise DataError(f"{file}: an object has a bndbox, and one of {name!r} has none; add it")
    left, top, right, bottom = (_number(file, box, key) for key in _CORNERS)
    difficult = entry.findtext("difficult", "0").strip() == "1"
    return within(
        (left - 1, top - 1, right - left + 1, bottom - top + 1),
        width,
        height,
        label=labels[name],
        crowd=difficult,
    )


def _root(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"annotations cannot be read from {file} ({error}); check the file") from error  # fmt: skip
    if root.tag != "annotation":
        raise DataError(
            f"{file}: the XML is an <annotation>, and this one is a <{root.tag}>; check the file"
        )
    return root


def _text(file: Path, element: ElementTree.Element, key: str) -> str:
    text = element.findtext(key, "").strip()
    if not text:
        raise DataError(f"{file}: <{element.tag}> has a {key}, and one has none; add it")
    return text


def _number(file: Path, element: ElementTree.Element, key: str) -> float:
    text = _text(file, element, key)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}: {key} is a finite number, not {text!r:.40}; correct it")
    return value
