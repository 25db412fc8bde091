"""Annotations as YOLO's tools write them: a text file for each image, a line `class x y width height` for each object.

    PATH/images/train/*.jpg     PATH/labels/train/*.txt     also without train/, val/ and test/
    PATH/data.yaml              `names:` of the classes; or classes.txt, obj.names: a name on each line

Numbers are parts of the image's sides, x and y of a box's center. A line with more numbers is a polygon, of which the
box around it is taken. An image without a file has no objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from tvm_mnas.errors import DataError, UsageError
from tvm_mnas.training.detection.annotations import (
    AnnotatedImage,
    DetectionSet,
    ObjectBox,
    within,
)

_LISTS = ("classes.txt", "obj.names", "labels.txt")
_YAML = ("data.yaml", "data.yml", "dataset.yaml")


def read_yolo(images: Sequence[Path], labels: Path, names: tuple[str, ...]) -> DetectionSet:
    """Return `images` with the objects that files of the same name in `labels` tell of.

    Raises:
        DataError: a line is none, its class has no name, or an image cannot be opened.
    """
    found = []
    dropped = 0
    for file in images:
        width, height = _size(file)
        objects: list[ObjectBox] = []
        for number, line in _lines(labels / f"{file.stem}.txt"):
            label, box = _object(labels / f"{file.stem}.txt", number, line, names)
            left, top, wide, high = box
            one = within(
                (left * width, top * height, wide * width, high * height),
                width,
                height,
                label=label,
            )
            if one is None:
                dropped += 1
            else:
                objects.append(one)
        found.append(AnnotatedImage(file.name, width, height, tuple(objects)))
    return DetectionSet(names, tuple(found), dropped)


def read_names(root: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers.

    Raises:
        DataError: there is no file of names in `root`, or it cannot be read.
        UsageError: it is YAML, and what reads that is not installed.
    """
    for name in _YAML:
        if (root / name).is_file():
            return _names_of_yaml(root / name)
    for name in _LISTS:
        if (root / name).is_file():
            names = tuple(line.strip() for line in _text(root / name).splitlines() if line.strip())
            if not names:
                raise DataError(f"{root / name}: each line names a class, and there is none")
            return names
    raise DataError(
        f"{root}: the names of the classes are in {', '.join((*_YAML[:1], *_LISTS))}, and none of them is there; "
        f"add one"
    )


def _names_of_yaml(path: Path) -> tuple[str, ...]:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"{path}: PyYAML reads it, which is not installed; `pip install 'tvm-mnas[detection]'` brings it"
        ) from error
    try:
        content: Any = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no YAML ({reason}); correct it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{path}: `names` lists the classes, or numbers them from 0, and is {names!r:.60} here; correct it"
        )
    return tuple(str(name) for name in names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"annotations cannot be read from {path} ({error}); check the file"
        ) from error


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        return []
    return [(n, line) for n, line in enumerate(_text(path).splitlines(), 1) if line.strip()]


def _object(
    path: Path, number: int, line: str, names: tuple[str, ...]
) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class of a line and its box: left, top, width, height in parts of the image."""
    words = line.split()
    try:
        label = int(words[0])
        values = [float(word) for word in words[1:]]
    except ValueError as error:
        raise DataError(
            f"{path}: line {number} must be a class and numbers, `class x y width height`, not {line!r:.60}"
        ) from error
    if not 0 <= label < len(names):
        raise DataError(
            f"{path}: line {number} is of class {label}, and there are {len(names)}, from 0 on; add its name"
        )
    if not all(map(math.isfinite, values)):
        raise DataError(f"{path}: numbers are finite, and those of line {number} are not: {line!r:.60}")  # fmt: skip
    if len(values) == 4:
        x, y, width, height = values
        return label, (x - width / 2, y - height / 2, width, height)
    if len(values) < 6 or len(values) % 2:
        raise DataError(
            f"{path}: line {number} must have 4 numbers of a box, or 3 or more pairs of a polygon; it has {len(values)}"
        )
    left, top = min(values[::2]), min(values[1::2])
    return label, (left, top, max(values[::2]) - left, max(values[1::2]) - top)


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{file} cannot be opened ({error}); remove or replace it") from error
