"""Hugging Face datasets: `hub:NAME`, or `hub:PATH` of one on disk; the extra `tvm-mnas[hub]` brings the library.

The image and the label are the columns of these kinds. NAME may be followed by `@CONFIGURATION`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tvm_mnas.errors import DataError, raise_if_foreign
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.listing import part_of

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits


@dataclass(frozen=True)
class HubStore:
    """The images of several tables, one after the other; `starts` are the numbers of their first images."""

    tables: tuple[Any, ...]
    parts: tuple[str, ...]
    starts: tuple[int, ...]
    column: str

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def name(self, index: int) -> str:
        """Return the split's name and the row."""
        table = self._table(index)
        return f"{self.parts[table]}[{index - self.starts[table]}]"

    def open(self, index: int) -> Path | BinaryIO:
        """Return the image's bytes, or its file."""
        table = self._table(index)
        held = self.tables[table][index - self.starts[table]][self.column]
        return io.BytesIO(held["bytes"]) if held["bytes"] else Path(held["path"])

    def _table(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1


class HubSource:
    """Hugging Face datasets: `hub:NAME` or `hub:PATH`."""

    def check(self, location: str) -> tuple[str, ...]:
        """Look whether the library is there, and the data set if it is on disk; what has to be fetched, is not."""
        _library()
        if not location:
            raise DataError("hub: needs a data set's name or path, as in hub:cifar10; add it")
        return ()

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the label column's classes."""
        return _open(location)[2]

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits."""
        from datasets import Image

        from tvm_mnas.training.data.stored import stored_splits

        tables, (image, label), names = _open(location)
        kept = {part: table for part, table in tables.items() if part_of(part) is not None}
        labels = np.concatenate([np.asarray(table[label], np.int64) for table in kept.values()])
        if labels.min(initial=0) < 0:
            raise DataError(f"hub:{location}: a split has no labels (-1); choose another data set")
        undecoded = tuple(
            table.select_columns([image]).cast_column(image, Image(decode=False))
            for table in kept.values()
        )
        sizes = [len(table) for table in undecoded]
        store = HubStore(
            undecoded, tuple(kept), tuple(int(at) for at in np.cumsum([0, *sizes[:-1]])), image
        )
        parts = [
            str(part_of(part)) for part, size in zip(kept, sizes, strict=True) for _ in range(size)
        ]
        return stored_splits(
            store, labels, parts, options, classes=len(names), name=f"hub:{location}"
        )


SOURCE = HubSource()


def _open(location: str) -> tuple[dict[str, Any], tuple[str, str], tuple[str, ...]]:
    """Return the tables by split, the columns of image and label, and the names of the classes."""
    library = _library()
    name, _, configuration = location.partition("@")
    path = Path(os.path.expanduser(name))
    try:
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            held = library.load_from_disk(str(path))
        else:
            held = library.load_dataset(name, configuration or None)
    except Exception as error:
        raise_if_foreign(error)
        raise DataError(
            f"hub: the data set {location!r} cannot be loaded ({' '.join(str(error).split())[:200]}); check its name, "
            f"or the path of one on disk"
        ) from error
    tables: dict[str, Any] = dict(held) if isinstance(held, dict) else {"train": held}
    features = next(iter(tables.values())).features
    image = next((key for key, kind in features.items() if isinstance(kind, library.Image)), None)
    label = next((key for key, kind in features.items() if isinstance(kind, library.ClassLabel)), None)  # fmt: skip
    if image is None or label is None:
        raise DataError(
            f"hub:{location}: a data set for a search has an image and a class label, and its columns are "
            f"{', '.join(features)}; choose another, or write a data source"
        )
    return tables, (image, label), tuple(features[label].names)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "hub: needs the library datasets, which is not installed; pip install 'tvm-mnas[hub]'"
        ) from error
    return datasets
