"""Image folders such as ImageNet's: PATH/train/CLASS/*.jpg, and labelled images for the test beside it.

    train/, training/                    the classes are its directories
    val/, validation/, valid/, test/     directories of the same classes, or images with a labels file (`labels.py`)

The test split is the labelled one of these. Where two are, the test is `test/` and the other is the validation split;
where none is there, a fifth of `train/` is held out for the test as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import Labels, LoadOptions
from tvm_mnas.training.data.labels import DEVKIT, TABLES, find_labels, labels_of
from tvm_mnas.training.data.listing import (
    class_directories,
    directories_in,
    named,
    part_of,
    scan,
    walk_images,
)

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits


@dataclass(frozen=True, slots=True)
class FolderParts:
    """Where the parts of an image folder are, the names of its classes, and what is worth a line."""

    train: Path
    names: tuple[str, ...]
    validation: Path | None
    test: Path | None
    notes: tuple[str, ...]


class FolderSource:
    """Image folders: `imagefolder:PATH`, or `imagenet:PATH`."""

    def check(self, location: str) -> tuple[str, ...]:
        """Look whether the parts are there, without reading images, and return what is worth a line."""
        return folder_parts(_path(location)).notes

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the directories of `train/` that hold images, sorted by code point."""
        return folder_parts(_path(location)).names

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits; validation is held out of `train/` unless the folder has one beside its test."""
        return load_folder(_path(location), options)


SOURCE = FolderSource()


def folder_parts(root: Path) -> FolderParts:
    """Return the parts of the image folder `root`.

    Raises:
        DataError: `train/` is missing or has no two classes, or images beside it have no labels.
    """
    if not root.is_dir():
        raise DataError(
            f"imagefolder: needs a directory with train/ and val/, and {str(root)!r} is none; "
            f"check the path, or use `--data embedded`"
        )
    directories = directories_in(root)
    parts: dict[str | None, Path] = {}
    for name in directories:
        parts.setdefault(part_of(name), root / name)
    train = parts.get("train")
    if train is None:
        raise DataError(
            f"an image folder has train/CLASS/*.jpg and val/ or test/; {str(root)!r} has "
            f"directories: {', '.join(directories) or 'none'}; check the path"
        )
    names, empty = class_directories(train)
    if len(names) < 2:
        raise DataError(
            f"{str(train)!r} must have one directory per class and at least two, not {len(names)}; "
            f"check the path"
        )
    notes = []
    if empty:
        notes.append(f"{train}: no images in {named(empty)}, which is then no class")
    labelled: dict[str, Path] = {}
    for kind in ("validation", "test"):
        place = parts.get(kind)
        if place is None:
            continue
        if _is_labelled(place, root, names):
            labelled[kind] = place
        elif kind == "test" and next(walk_images(place), None) is not None:
            notes.append(f"{place}: its images have no labels and are left alone")
        elif kind == "validation":
            raise DataError(
                f"{place} has neither directories of the classes of train/ nor a file of labels; copy "
                f"{TABLES[0]} (Kaggle) or {DEVKIT} into {root}, or sort its images into directories"
            )
    if not labelled:
        notes.append(
            f"{root}: no labelled val/ or test/; a fifth of {train.name}/ is held out for the test"
        )
    test = labelled.get("test", labelled.get("validation"))
    validation = labelled.get("validation") if "test" in labelled else None
    return FolderParts(train, names, validation, test, tuple(notes))


def _is_labelled(place: Path, root: Path, names: tuple[str, ...]) -> bool:
    theirs, _ = class_directories(place)
    if not set(theirs) & set(names):
        return find_labels(place, root) is not None
    if theirs != names:
        wrong = named(tuple(sorted(set(theirs) ^ set(names))))
        raise DataError(
            f"train/ and {place.name}/ of {str(root)!r} have the same classes, but "
            f"{wrong} is only in one; complete the folder"
        )
    return True


def load_folder(
    root: Path, options: LoadOptions, *, validation_fraction: float | None = None
) -> DataSplits:
    """Return the splits of the image folder at `root`.

    Raises:
        DataError: a directory is missing, empty or without labels, or training and test classes differ.
    """
    from tvm_mnas.training.data.splits import PARTS
    from tvm_mnas.training.data.stored import FileStore, stored_splits

    parts = folder_parts(root)
    files, labels = scan(parts.train, parts.names)
    found = [(files, labels)]
    for place in (parts.validation, parts.test):
        found.append(_labelled(place, root, parts.names) if place else ((), labels[:0]))
    return stored_splits(
        FileStore(tuple(file for files, _ in found for file in files)),
        np.concatenate([labels for _, labels in found]),
        [part for part, (files, _) in zip(PARTS, found, strict=True) for _ in files],
        options,
        classes=len(parts.names),
        name=f"imagefolder:{root}",
        validation_fraction=validation_fraction,
    )


def _labelled(place: Path, root: Path, names: tuple[str, ...]) -> tuple[tuple[Path, ...], Labels]:
    """Return the images of a directory for the test or validation, and their labels."""
    if set(class_directories(place)[0]) & set(names):
        return scan(place, names)
    files = tuple(walk_images(place))
    table = find_labels(place, root)
    if not files or table is None:
        raise DataError(f"{place} has labels, but no images; fetch them")
    return files, np.asarray(labels_of(table, files, names), np.int64)


def _path(location: str) -> Path:
    if not location or "\0" in location:
        raise DataError("imagefolder: needs the path of a directory, as in imagefolder:/data/shoes")
    return Path(os.path.expanduser(location))
