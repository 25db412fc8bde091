"""Labels that stand in a file: beside a folder of images, or as data of its own, `csv:FILE`.

LOC_val_solution.csv                       ImageId,PredictionString      n01440764 1 2 3 4: the first word counts
val_annotations.txt                        file, class, box, by tabs
val.csv, val_labels.csv, labels.csv        file,label, with or without a head
ILSVRC2012_validation_ground_truth.txt     a number a line, in the devkit's order of classes, which
                                           map_clsloc.txt (`n02119789 1 kit_fox`) or meta.mat beside it gives
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.listing import named, part_of

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits

TABLES = ("LOC_val_solution.csv", "val_annotations.txt", "val.csv", "val_labels.csv", "labels.csv")
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
CLASS_ORDERS = ("map_clsloc.txt", "meta.mat")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A line of a table: the file's name as written, its class, and the split it is in, `""` where none is told."""

    file: str
    label: str
    split: str = ""


def read_table(path: Path) -> tuple[LabelRow, ...]:
    """Return the lines of a table of files and labels, separated by commas, semicolons or tabs.

    The first two columns count, unless a head names `file` (or path, image, ...), `label` (or class) and `split`.

    Raises:
        DataError: the file cannot be read, holds no such table, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels cannot be read from {path} ({error}); check the file") from error
    head = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=head.count)
    if not head.count(delimiter):
        raise DataError(
            f"{path}: a table of labels has a file and its label in each line, separated by commas, "
            f"semicolons or tabs, but the first line is {head[:60]!r}"
        )
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if any(line)]
    columns = _columns(lines[0])
    rows = []
    for number, line in enumerate(lines[1:] if columns else lines, 2 if columns else 1):
        at = columns or (0, 1, None)
        if len(line) <= max(at[0], at[1]):
            raise DataError(
                f"{path}: each line has a file and its label, but line {number} is {delimiter.join(line)[:60]!r}"
            )
        split = line[at[2]].strip() if at[2] is not None and len(line) > at[2] else ""
        rows.append(LabelRow(line[at[0]].strip(), line[at[1]].strip(), split))
    if not rows:
        raise DataError(f"{path}: a table of labels has lines, and this one has none; fill it")
    return tuple(rows)


_FILE_HEADS = frozenset(
    ["file", "filename", "file_name", "path", "filepath", "image", "imageid", "image_id", "id"]
)
_LABEL_HEADS = frozenset(
    [
        "label",
        "labels",
        "class",
        "classname",
        "class_name",
        "category",
        "target",
        "predictionstring",
    ]
)
_SPLIT_HEADS = frozenset(["split", "set", "subset", "partition"])


def _columns(head: Sequence[str]) -> tuple[int, int, int | None] | None:
    """Return the columns of file, label and split that a head names, None where the first line is none."""
    words = [word.strip().casefold() for word in head]

    def find(names: frozenset[str]) -> int | None:
        return next((place for place, word in enumerate(words) if word in names), None)

    file, label = find(_FILE_HEADS), find(_LABEL_HEADS)
    if file == label:
        return None
    split = find(_SPLIT_HEADS)
    others = (place for place in range(len(words)) if place not in (file, label, split))
    # One of the two names is enough: the head of a contest may say `image,breed`.
    file = next(others) if file is None else file
    label = next(others, None) if label is None else label
    return None if label is None else (file, label, split)


def find_labels(directory: Path, root: Path) -> Path | None:
    """Return the file with labels of the images in `directory`, in it or in `root`, None if there is none."""
    for name in (*TABLES, DEVKIT):
        for place in (directory, root):
            if (place / name).is_file():
                return place / name
    return None


def labels_of(path: Path, files: Sequence[Path], names: Sequence[str]) -> list[int]:
    """Return the label of each of `files`, in order, from the labels file `path`; `names` are the classes.

    Raises:
        DataError: a file has no label, or a label is no class.
    """
    if path.name == DEVKIT:
        return _devkit_labels(path, files, names)
    rows = read_table(path)
    numbers = {name: label for label, name in enumerate(names)}
    by_name = {Path(row.file).name: row.label for row in rows}
    by_stem = {Path(row.file).stem: row.label for row in rows}
    labels = []
    for file in files:
        text = by_name.get(file.name, by_stem.get(file.stem))
        if text is None:
            raise DataError(f"{path} has no label of {file.name}; complete it, or remove the image")
        label = numbers.get(text)
        if label is None and text.split():
            label = numbers.get(text.split()[0])
        if label is None:
            raise DataError(
                f"{path}: the label of {file.name} is none of the classes ({named(tuple(names))}), but "
                f"{text[:60]!r}; correct it"
            )
        labels.append(label)
    return labels


def _devkit_labels(path: Path, files: Sequence[Path], names: Sequence[str]) -> list[int]:
    order = _devkit_order(path)
    numbers = {name: label for label, name in enumerate(names)}
    try:
        lines = path.read_text(encoding="utf-8").split()
        told = [int(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: the devkit has a number in each line, and this file has not ({error}); fetch it again"
        ) from error
    if len(told) != len(files):
        raise DataError(
            f"{path} has {len(told)} labels, but there are {len(files)} images beside it; fetch both again"
        )
    try:
        return [numbers[order[number]] for number in told]
    except KeyError as error:
        raise DataError(
            f"{path}: every number is a class of train/ in the devkit's order, but {error.args[0]!r} is none; "
            f"check that both are of one data set"
        ) from error


def _devkit_order(path: Path) -> dict[int, str]:
    for name in CLASS_ORDERS:
        for place in (path.parent, path.parent / "data", path.parent.parent):
            if (place / name).is_file():
                return _read_order(place / name)
    raise DataError(
        f"{path} has numbers in the devkit's order of classes, and neither {' nor '.join(CLASS_ORDERS)} with that "
        f"order is beside it; copy one from the devkit, or Kaggle's LOC_val_solution.csv"
    )


def _read_order(path: Path) -> dict[int, str]:
    try:
        if path.suffix == ".txt":
            parts = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line]
            return {int(part[1]): part[0] for part in parts}
        from scipy.io import loadmat

        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row[0]): str(row[1]) for row in synsets}
    except (OSError, ValueError, KeyError, IndexError, ImportError) as error:
        raise DataError(
            f"{path}: the devkit's order of classes cannot be read ({error}); "
            f"Kaggle's LOC_val_solution.csv does as well"
        ) from error


class TableSource:
    """A table of image files and labels, `csv:FILE`: paths from the table's directory, and maybe a column `split`."""

    def check(self, location: str) -> tuple[str, ...]:
        """Look whether the table can be read and its first file is there."""
        path = _table_path(location)
        rows = read_table(path)
        _parts_of(path, rows)
        first = path.parent / rows[0].file
        if not first.is_file():
            raise DataError(
                f"{path}: files are named from the table's directory, and there is no {first}; correct the paths"
            )
        if not {row.split for row in rows} - {""}:
            return (f"{path}: no column `split`; a fifth is held out for the test",)
        return ()

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the labels that occur, sorted by code point."""
        return tuple(sorted({row.label for row in read_table(_table_path(location))}))

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits that the table names."""
        import numpy as np

        from tvm_mnas.training.data.stored import FileStore, stored_splits

        path = _table_path(location)
        rows = read_table(path)
        names = sorted({row.label for row in rows})
        numbers = {name: label for label, name in enumerate(names)}
        return stored_splits(
            FileStore(tuple(path.parent / row.file for row in rows)),
            np.asarray([numbers[row.label] for row in rows], np.int64),
            _parts_of(path, rows),
            options,
            classes=len(names),
            name=f"csv:{path}",
        )


SOURCE = TableSource()


def _table_path(location: str) -> Path:
    path = Path(os.path.expanduser(location))
    if not location or not path.is_file():
        raise DataError(
            f"csv: needs a table of files and labels, and {location!r} is no file; check the path"
        )
    return path


def _parts_of(path: Path, rows: Sequence[LabelRow]) -> list[str]:
    parts = []
    for row in rows:
        part = part_of(row.split)
        if part is None:
            raise DataError(
                f"{path}: a split is train, val or test, but that of {row.file} is {row.split!r}; correct it"
            )
        parts.append(part)
    return parts
