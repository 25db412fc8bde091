"""What `tvm-mnas data` does: look through every image of a data set, and write a decoded copy of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.cache import CacheFacts, write_cache
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, class_names, load_data
from tvm_mnas.training.data.splits import CheckedSplit
from tvm_mnas.training.detection.splits import DetectionSplit

_SIZE = 64
"""To what images are decoded that are only looked at."""


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """How many images a split has, and what is wrong with those that cannot be decoded, by name."""

    name: str
    images: int
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What a check of a data set found; `notes` are lines about its layout."""

    spec: str
    class_names: tuple[str, ...]
    splits: tuple[SplitCheck, ...]
    notes: tuple[str, ...]

    @property
    def bad(self) -> int:
        """How many images cannot be decoded."""
        return sum(len(split.bad) for split in self.splits)


def check_images(
    spec: str, *, workers: int, on_progress: Callable[[str, int, int], None]
) -> DataCheck:
    """Decode every image of the data `spec` and return what was found.

    `on_progress` hears a split's name, the images done and those in all.

    Raises:
        DataError: the data is missing, or its layout is wrong.
    """
    notes = [*check_data(spec)]
    splits = load_data(spec, LoadOptions(input_size=_SIZE, workers=workers))
    checks = []
    for name in ("train", "validation", "test"):
        split = getattr(splits, name)
        bad: dict[str, str] = {}
        if isinstance(split, CheckedSplit):
            total = len(split)
            bad = split.find_bad(
                on_progress=lambda done, name=name, total=total: on_progress(name, done, total)  # type: ignore[misc]
            )
        checks.append(SplitCheck(name, len(split), bad))
        if isinstance(split, DetectionSplit) and split.data.dropped:
            notes.append(
                f"{name}: {split.data.dropped} boxes without an area, or outside of their images, are left out"
            )
    return DataCheck(spec, class_names(spec), tuple(checks), tuple(notes))


def make_cache(
    spec: str,
    directory: Path,
    *,
    size: int,
    workers: int,
    seed: int,
    max_bad_images: int,
    on_progress: Callable[[int, int], None],
) -> CacheFacts:
    """Write the images of the data `spec`, decoded to squares of `size`, to the new `directory`.

    Raises:
        DataError: the data is missing or damaged, needs no cache, or the directory holds something.
    """
    if size < 8:
        raise DataError(f"a cache has images of 8 pixels or more, not {size}; add --size 160")
    check_data(spec)
    options = LoadOptions(
        input_size=size, seed=seed, workers=workers, max_bad_images=max_bad_images
    )
    splits = load_data(spec, options)
    if splits.boxes:
        raise DataError(f"a cache is of images with classes, and {spec} has boxes; use it as it is")
    return write_cache(
        splits, directory, spec=spec, class_names=class_names(spec), on_progress=on_progress
    )
