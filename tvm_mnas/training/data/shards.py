"""Tar shards as webdataset writes them: `shards:PATH`, a directory of *.tar, or one archive.

    000017.jpg  000017.cls      one image and its class, side by side: a number, or a name
    000018.jpg  000018.json     {"label": 3}, or "class", "cls"

The shards of a split lie in directories train/, val/, test/, or have that in their names: imagenet-train-0001.tar.
An index of all members is made once, when the data is loaded: images are then read in any order.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.listing import is_clutter, is_image_name, named, part_of

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits

_JSON_KEYS = ("label", "class", "cls")
_CLASS_LIST = "classes.txt"


@dataclass(frozen=True, slots=True)
class ShardMember:
    """An image within a shard: where its bytes are, its name, its class as written, and its split."""

    shard: Path
    offset: int
    size_bytes: int
    name: str
    label: str
    part: str


@dataclass(frozen=True, slots=True)
class ShardStore:
    """Images within tar archives, read at their offsets."""

    members: tuple[ShardMember, ...]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        """Return the shard's path, a colon, and the member's name."""
        member = self.members[index]
        return f"{member.shard}:{member.name}"

    def open(self, index: int) -> BinaryIO:
        """Return the member's bytes."""
        member = self.members[index]
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            return io.BytesIO(file.read(member.size_bytes))


class ShardSource:
    """Tar shards: `shards:PATH`."""

    def check(self, location: str) -> tuple[str, ...]:
        """Look whether there are shards, and say so where none is for the test."""
        shards = shards_of(_path(location))
        if {part for _, part in shards} == {"train"}:
            return (f"{location}: no shards of a test; a fifth of the images is held out for it",)
        return ()

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the lines of classes.txt beside the shards, else the classes as written in them, sorted."""
        return _names(_path(location), read_index(_path(location)))

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits."""
        from tvm_mnas.training.data.stored import stored_splits

        path = _path(location)
        members = read_index(path)
        names = _names(path, members)
        numbers = {name: label for label, name in enumerate(names)}
        if {member.label for member in members} - set(numbers):
            # classes.txt names what the shards have by number.
            numbers = {str(label): label for label in range(len(names))}
        try:
            labels = np.asarray([numbers[member.label] for member in members], np.int64)
        except KeyError as error:
            raise DataError(
                f"{path / _CLASS_LIST} names every class, but not {error.args[0]!r}; complete it"
            ) from error
        parts = [member.part for member in members]
        name = f"shards:{path}"
        return stored_splits(
            ShardStore(members), labels, parts, options, classes=len(names), name=name
        )


SOURCE = ShardSource()


def shards_of(path: Path) -> list[tuple[Path, str]]:
    """Return the archives at `path`, sorted, each with its split: train, validation or test.

    Raises:
        DataError: if there is none.
    """
    if path.is_file():
        return [(path, "train")]
    found = sorted(one for one in path.rglob("*.tar") if not is_clutter(one.name))
    if not found:
        raise DataError(
            f"shards: needs a tar file, or a directory with some, and {str(path)!r} has none; check the path"
        )
    return [(one, _part(one.relative_to(path))) for one in found]


@lru_cache(maxsize=2)
def read_index(path: Path) -> tuple[ShardMember, ...]:
    """Return every image in the archives at `path` that has a class beside it.

    Raises:
        DataError: an archive is damaged, or an image has no class.
    """
    members = [one for shard, part in shards_of(path) for one in _members(shard, part)]
    if not members:
        raise DataError(f"shards: {str(path)!r} has no image; check the path")
    return tuple(members)


def _members(shard: Path, part: str) -> Iterator[ShardMember]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                key, _, ending = entry.name.partition(".")
                if not entry.isfile() or is_clutter(Path(entry.name).name):
                    continue
                if is_image_name(entry.name):
                    images[key] = entry
                elif ending.lower() in ("cls", "json"):
                    held = archive.extractfile(entry)
                    text = held.read().decode("utf-8") if held else ""
                    labels[key] = _label(text, ending.lower())
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise DataError(f"{shard} cannot be read as a shard ({error}); fetch it again") from error
    lacking = sorted(set(images) - set(labels))
    if lacking:
        raise DataError(
            f"{shard}: each image has a .cls or .json beside it, and {named(tuple(lacking))} has none; write it again"
        )
    for key, entry in images.items():
        yield ShardMember(shard, entry.offset_data, entry.size, entry.name, labels[key], part)


def _label(text: str, ending: str) -> str:
    if ending == "cls":
        return text.strip()
    held = json.loads(text)
    for key in _JSON_KEYS:
        if isinstance(held, dict) and key in held:
            return str(held[key])
    raise KeyError(f"no {', '.join(_JSON_KEYS)} in {text[:60]!r}")


def _names(path: Path, members: tuple[ShardMember, ...]) -> tuple[str, ...]:
    listed = (path if path.is_dir() else path.parent) / _CLASS_LIST
    if listed.is_file():
        return tuple(line for line in listed.read_text(encoding="utf-8").splitlines() if line)
    found = {member.label for member in members}
    if all(label.isdecimal() for label in found):
        # Numbers are labels: a class that does not occur keeps its place.
        return tuple(str(label) for label in range(max(map(int, found)) + 1))
    return tuple(sorted(found))


def _part(shard: Path) -> str:
    for word in (*shard.parts[:-1], *re.split(r"[-_.]", shard.stem)):
        part = part_of(word) if word else None
        if part is not None:
            return part
    return "train"


def _path(location: str) -> Path:
    path = Path(os.path.expanduser(location))
    if not location or not path.exists():
        raise DataError(
            f"shards: needs a tar file, or a directory with some, and {location!r} is neither; check the path"
        )
    return path
