"""Where images come from, and the door for data of one's own.

    class MyData:
        def check(self, location): ...                  # raise DataError early if something is missing
        def class_names(self, location): return ("cat", "dog")
        def load(self, location, options):
            return memory_splits(train, test, options, name="my data")

    MY_DATA = MyData()

`tvm-mnas search --data package.module:MY_DATA` uses it; what follows another colon is the `location`. Nothing here
imports torch before images are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.errors import DataError
from tvm_mnas.plugins import DATA_SOURCES
from tvm_mnas.training.data.images import LoadOptions, check_shipped, shipped_class_names

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits


class DataSource(Protocol):
    """One kind of data; `location` is what stands after its name in a data spec, often a path."""

    def check(self, location: str) -> Sequence[str] | None:
        """Look whether the data is there, quickly; may return lines worth telling.

        Raises:
            DataError: if it is not.
        """
        ...

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels."""
        ...

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return training, validation and test split; what is held out for validation follows from `options.seed`.

        Raises:
            DataError: if the data is missing or malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class MemorySource:
    """Images that fit in memory: the embedded ones, and IDX files."""

    kind: str

    def check(self, location: str) -> None:
        """Look whether directories and files are there, without reading images; DataError if not."""
        check_shipped(self._spec(location))

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels."""
        return shipped_class_names(self._spec(location))

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits; see `training.data.memory.load_images`."""
        from tvm_mnas.training.data.memory import load_images

        return load_images(self._spec(location), options)

    def _spec(self, location: str) -> str:
        return f"{self.kind}:{location}" if location else self.kind


EMBEDDED = MemorySource("embedded")
IDX = MemorySource("idx")


_FORMS = (
    "embedded",
    "imagefolder:PATH",
    "imagenet:PATH",
    "idx:PATH",
    "csv:FILE",
    "shards:PATH",
    "hub:NAME",
    "cache:PATH",
)


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
            f"unknown data {spec!r}: it is {', '.join(_FORMS)}, or package.module:object; "
            f"`--data embedded` needs nothing"
        )
    part, _, location = location.partition(":")
    source = DATA_SOURCES.load(f"{name}:{part}")
    lacking = [method for method in ("check", "class_names", "load") if not hasattr(source, method)]
    if lacking:
        raise DataError(f"{name}:{part} is no data source: it lacks {', '.join(lacking)}")
    return source, location


def check_data(spec: str) -> tuple[str, ...]:
    """Look whether what `spec` names is there, without reading its images, and return what is worth a line.

    Raises:
        DataError: the spec is wrong, or a directory or file that it needs is missing.
    """
    source, location = find_data(spec)
    return tuple(source.check(location) or ())


def load_data(spec: str, options: LoadOptions) -> DataSplits:
    """Return training, validation and test split of a data spec.

    The validation split is always held out of the training images; the test split is never trained on
    and never used to choose a candidate. Nothing here depends on what happens to be installed: the full
    Fashion-MNIST is used only where `idx:PATH` asks for it.

    Raises:
        DataError: the spec is wrong, or data is missing or malformed.
    """
    source, location = find_data(spec)
    return source.load(location, options)


def class_names(spec: str) -> tuple[str, ...]:
    """Return the names of the classes of a data spec, in the order of their labels.

    Raises:
        DataError: the spec is wrong, or what it names is missing.
    """
    source, location = find_data(spec)
    return tuple(source.class_names(location))
