"""Which directories are classes and which files are images: one rule for trainings, manifests and checks.

No torch here: what only looks whether data is there answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvm_mnas.errors import DataError

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
    }
)
"""The endings of images, in lower case; upper case counts as well."""

_SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    }
)


def is_clutter(name: str) -> bool:
    """Return whether `name` is hidden, or what Windows, macOS, Linux or a NAS leaves in directories."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is taken for an image: by its ending."""
    return not is_clutter(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def walk_images(directory: Path) -> Iterator[Path]:
    """Yield every image in and below `directory`, each level sorted by code point.

    Whatever has an image's ending is one, a directory too: that it cannot be decoded is then said.

    Raises:
        DataError: a directory cannot be read.
    """
    for name in _names_in(directory):
        path = directory / name
        if is_image_name(name):
            yield path
        elif not is_clutter(name) and path.is_dir():
            yield from walk_images(path)


def directories_in(directory: Path) -> tuple[str, ...]:
    """Return the names of the directories in `directory` that are neither clutter nor named as images, sorted.

    Raises:
        DataError: the directory cannot be read.
    """
    return tuple(
        name
        for name in _names_in(directory)
        if not is_clutter(name) and not is_image_name(name) and (directory / name).is_dir()
    )


def class_directories(directory: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes in `directory`, and of directories without an image; each sorted by code point.

    Raises:
        DataError: a directory cannot be read.
    """
    names: list[str] = []
    empty: list[str] = []
    for name in directories_in(directory):
        held = next(walk_images(directory / name), None)
        (empty if held is None else names).append(name)
    return tuple(names), tuple(empty)


def scan(directory: Path, names: tuple[str, ...]) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    """Return the images below the class directories `names` of `directory`, and their labels (N,).

    Raises:
        DataError: a directory cannot be read.
    """
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = tuple(walk_images(directory / name)) if (directory / name).is_dir() else ()
        files.extend(found)
        labels.extend([label] * len(found))
    return tuple(files), np.asarray(labels, np.int64)


def named(names: tuple[str, ...], limit: int = 3) -> str:
    """Return up to `limit` of `names`, and how many there are beside them."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} others"


def _names_in(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise DataError(
            f"{str(directory)!r} cannot be listed: {error.strerror}; check its permissions"
        ) from error


_PART_NAMES = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def part_of(name: str) -> str | None:
    """Return train, validation or test for one of the names that they go by, None for any other."""
    return _PART_NAMES.get(name.strip().casefold())
