"""Where images come from: what ships, a source of one's own, and what is said of one that is none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tvm_mnas.errors import ConfigError, DataError
from tvm_mnas.evaluation.trainers import load_splits
from tvm_mnas.training.data.images import ImageSet, LoadOptions
from tvm_mnas.training.data.memory import memory_splits
from tvm_mnas.training.data.sources import check_data, class_names, find_data
from tvm_mnas.training.data.splits import DataSplits


def images(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    return ImageSet(pixels, np.arange(count, dtype=np.int64) % 4, classes=4)


class Dots:
    """A source of one's own."""

    def check(self, location: str) -> None:
        if location == "gone":
            raise DataError("cannot find the dots: gone is no place; name another")

    def class_names(self, location: str) -> tuple[str, ...]:
        return tuple(f"{location}{label}" for label in range(4))

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        train, test = images(80, 1), images(20, 2)
        return memory_splits(train, test, options, name=location)


DOTS = Dots()
NO_SOURCE = object()
SPEC = f"{__name__}:DOTS"


def test_what_ships_is_found_by_its_name() -> None:
    source, location = find_data("imagefolder:/data/shoes")
    assert location == "/data/shoes"
    with pytest.raises(DataError, match="/data/shoes"):
        source.check(location)
    check_data("embedded")
    assert class_names("embedded")[0] == "t-shirt/top"


def test_a_source_of_ones_own_gets_what_stands_behind_its_name() -> None:
    assert find_data(SPEC)[1] == ""
    source, location = find_data(f"{SPEC}:C:/dots?x=1")
    assert (type(source).__name__, location) == ("Dots", "C:/dots?x=1")
    assert class_names(f"{SPEC}:dot-") == ("dot-0", "dot-1", "dot-2", "dot-3")
    with pytest.raises(DataError, match="gone is no place"):
        check_data(f"{SPEC}:gone")


def test_a_source_in_a_file_is_found() -> None:
    assert class_names(f"{Path(__file__)}:DOTS:a") == ("a0", "a1", "a2", "a3")


def test_its_splits_are_what_trainers_get() -> None:
    splits = load_splits(f"{SPEC}:here", 16, 7)
    assert (splits.name, splits.classes, splits.input_size) == ("here", 4, 16)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (64, 16, 20)
    batch, labels = next(iter(splits.train.train_batches(batch_size=8, steps=1, seed=0)))
    assert (tuple(batch.shape), tuple(labels.shape)) == ((8, 3, 16, 16), (8,))


@pytest.mark.parametrize(
    ("spec", "message", "kind"),
    [
        ("parquet", "unknown data 'parquet': it is embedded, imagefolder:PATH", DataError),
        (
            f"{__name__}:NO_SOURCE",
            "is no data source: it lacks check, class_names, load",
            DataError,
        ),
        (f"{__name__}:ABSENT", "has no 'ABSENT'", ConfigError),
        ("no_such_module:DOTS:x", "cannot import 'no_such_module'", ConfigError),
    ],
)
def test_what_names_no_source_is_one_line(spec: str, message: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        find_data(spec)
    assert "\n" not in str(caught.value)
