"""Where images come from, and the door for data of one's own.

    class MyData:
        def check(self, location): ...                  # raise DataError early if something is missing
        def class_names(self, location): return ("cat", "dog")
        def load(self, location, *, input_size, seed, workers):
            return memory_splits(train, test, input_size=input_size, seed=seed, name="my data")

    MY_DATA = MyData()

`tvm-mnas search --data package.module:MY_DATA` uses it; what follows another colon is the `location`. Nothing here
imports torch before images are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.errors import DataError
from tvm_mnas.plugins import DATA_SOURCES
from tvm_mnas.training.data.images import check_shipped, shipped_class_names

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits


class DataSource(Protocol):
    """One kind of data; `location` is what stands after its name in a data spec, often a path."""

    def check(self, location: str) -> None:
        """Look whether the data is there, quickly.

        Raises:
            DataError: if it is not.
        """
        ...

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels."""
        ...

    def load(self, location: str, *, input_size: int, seed: int, workers: int) -> DataSplits:
        """Return training, validation and test split for networks with inputs of `input_size` squared.

        Which training images are held out for validation follows from `seed`; `workers` processes may decode.

        Raises:
            DataError: if the data is missing or malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ShippedSource:
    """A kind of data that tvm-mnas knows: the embedded images, image folders, IDX files."""

    kind: str

    def check(self, location: str) -> None:
        """Look whether directories and files are there, without reading images; DataError if not."""
        check_shipped(self._spec(location))

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels."""
        return shipped_class_names(self._spec(location))

    def load(self, location: str, *, input_size: int, seed: int, workers: int) -> DataSplits:
        """Return the splits; see `training.data.memory.load_data`."""
        from tvm_mnas.training.data.memory import load_data

        return load_data(self._spec(location), input_size=input_size, seed=seed, workers=workers)

    def _spec(self, location: str) -> str:
        return f"{self.kind}:{location}" if location else self.kind


EMBEDDED = ShippedSource("embedded")
IMAGE_FOLDER = ShippedSource("imagefolder")
IDX = ShippedSource("idx")


def find_data(spec: str) -> tuple[DataSource, str]:
    """Return the source that a data spec names, and the location in it.

    A spec is `NAME`, `NAME:LOCATION`, `package.module:object` or `package.module:object:LOCATION`.

    Raises:
        DataError: if there is no such source.
        ConfigError: if the module that it names cannot be imported.
    """
    name, _, location = spec.partition(":")
    if DATA_SOURCES.knows(name):
        source: DataSource = DATA_SOURCES.load(name)
        return source, location
    if not location:
        raise DataError(
            f"unknown data {spec!r}: it is embedded, imagefolder:PATH, imagenet:PATH, idx:PATH, or "
            f"package.module:object; `--data embedded` needs nothing"
        )
    part, _, location = location.partition(":")
    source = DATA_SOURCES.load(f"{name}:{part}")
    lacking = [method for method in ("check", "class_names", "load") if not hasattr(source, method)]
    if lacking:
        raise DataError(f"{name}:{part} is no data source: it lacks {', '.join(lacking)}")
    return source, location


def check_data(spec: str) -> None:
    """Look whether what `spec` names is there, without reading its images.

    Raises:
        DataError: the spec is wrong, or a directory or file that it needs is missing.
    """
    source, location = find_data(spec)
    source.check(location)


def class_names(spec: str) -> tuple[str, ...]:
    """Return the names of the classes of a data spec, in the order of their labels.

    Raises:
        DataError: the spec is wrong, or what it names is missing.
    """
    source, location = find_data(spec)
    return tuple(source.class_names(location))
