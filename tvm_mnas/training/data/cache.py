"""A decoded copy of a data set, `cache:PATH`: no training from it waits for JPEG decoding.

    cache.json        what it is of, the side of its images, its classes, how many images each split has
    train.pixels      uint8 (N,S,S,3), one image after the other: the central square, resized
    train.labels      int64 (N,), little-endian; the same for validation and test

`tvm-mnas data cache` writes it. Which images are held out for validation was decided then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_mnas.errors import DataError
from tvm_mnas.files import atomic_write_text
from tvm_mnas.training.data.decoding import Box, central_box, random_box
from tvm_mnas.training.data.images import Labels, LoadOptions, Normalization, Pixels

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import Batch, DataSplits

SCHEMA = 1
_FACTS = "cache.json"
_SPLITS = ("train", "validation", "test")
_BATCH = 64


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What a cache holds: images of `size` squared of the data `spec`, so many in each split."""

    spec: str
    size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: dict[str, int]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """Return the content of cache.json."""
        return {
            "schema": SCHEMA,
            "spec": self.spec,
            "size": self.size,
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "images": self.images,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class CachedSplit:
    """A split of a cache; its images `pixels` (N,S,S,3) stay on disk until they are used."""

    pixels: Pixels
    labels: Labels
    input_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` batches of exactly `batch_size` random-resized, randomly flipped crops."""
        return self.train_batches_after(0, batch_size=batch_size, steps=steps, seed=seed)

    def train_batches_after(
        self, start: int, *, batch_size: int, steps: int, seed: int
    ) -> Iterator[Batch]:
        """Yield what `train_batches` yields, without its first `start`, of which nothing is resized."""
        from tvm_mnas.training.data.splits import draw_indices

        rng = np.random.default_rng(seed)
        side = self.pixels.shape[1]
        drawn = draw_indices(len(self), batch_size=batch_size, steps=steps, rng=rng)
        for step, indices in enumerate(drawn):
            boxes = [random_box(side, side, rng=rng) for _ in indices]
            flips = rng.random(len(indices)) < 0.5
            if step >= start:
                yield self._batch(indices, boxes, flips)

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield the central crop of every image once, in order."""
        side = self.pixels.shape[1]
        box = central_box(side, side, input_size=self.input_size)
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield self._batch(indices, [box] * len(indices), np.zeros(len(indices), np.bool_))

    def _batch(
        self, indices: NDArray[np.int64], boxes: Sequence[Box], flips: NDArray[np.bool_]
    ) -> Batch:
        import torch
        from torch.nn.functional import interpolate

        size = self.input_size
        images = torch.empty((len(indices), size, size, 3), dtype=torch.uint8)
        for place, (index, (left, top, right, bottom)) in enumerate(
            zip(indices, boxes, strict=True)
        ):
            crop = self.pixels[index, top:bottom, left:right]
            # Before it is resized, when it is smaller.
            whole = np.ascontiguousarray(crop[:, ::-1]) if flips[place] else crop
            # Strides of channels last, for which torch has a fast path on bytes: three times as fast as Pillow.
            laid = torch.from_numpy(whole).permute(2, 0, 1).unsqueeze(0)
            resized = interpolate(laid, (size, size), mode="bicubic", antialias=True)
            images[place] = resized[0].permute(1, 2, 0)
        return images, torch.from_numpy(self.labels[indices])


class CacheSource:
    """Decoded copies: `cache:PATH`."""

    def check(self, location: str) -> tuple[str, ...]:
        """Look whether the cache is there and whole."""
        path = _path(location)
        facts = read_facts(path)
        for split in _SPLITS:
            _sized(path / f"{split}.pixels", facts.images[split] * facts.size * facts.size * 3)
            _sized(path / f"{split}.labels", facts.images[split] * 8)
        return ()

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names that the cached data had."""
        return read_facts(_path(location)).class_names

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits, with the validation that was chosen when the cache was written."""
        from tvm_mnas.training.data.splits import DataSplits

        path = _path(location)
        self.check(location)
        facts = read_facts(path)
        if options.input_size > facts.size:
            raise DataError(
                f"cache:{path} has images of {facts.size}, too small for inputs of {options.input_size}; "
                f"write one with `tvm-mnas data cache {facts.spec} -o DIR --size {options.input_size}`"
            )

        def split(name: str) -> CachedSplit:
            count, side = facts.images[name], facts.size
            # Copied on write, since torch warns of what it could not write to.
            pixels = np.memmap(path / f"{name}.pixels", np.uint8, "c", shape=(count, side, side, 3))
            labels = np.fromfile(path / f"{name}.labels", "<i8").astype(np.int64)
            return CachedSplit(pixels, labels, options.input_size)

        return DataSplits(
            train=split("train"),
            validation=split("validation"),
            test=split("test"),
            classes=len(facts.class_names),
            input_size=options.input_size,
            name=f"cache:{path}",
            normalization=Normalization(facts.mean, facts.std),
        )


SOURCE = CacheSource()


def write_cache(
    splits: DataSplits,
    path: Path,
    *,
    spec: str,
    class_names: tuple[str, ...],
    on_progress: Callable[[int, int], None],
) -> CacheFacts:
    """Write the images of `splits`, decoded to squares of their input size, to the new directory `path`.

    `on_progress` hears the images done and those in all. The directory is complete when its cache.json is there.

    Raises:
        DataError: the directory holds something already, the images are in memory anyway, or too many are damaged.
    """
    from tvm_mnas.training.data.stored import StoredSplit

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"a cache is written to a new directory, and {path} holds something; name another")  # fmt: skip
    parts = {name: getattr(splits, name) for name in _SPLITS}
    total, done = sum(len(split) for split in parts.values()), 0
    images: dict[str, int] = {}
    for name, split in parts.items():
        if not isinstance(split, StoredSplit):
            raise DataError(
                f"{spec} needs no cache: its images are in memory already; use it as it is"
            )
        path.mkdir(parents=True, exist_ok=True)
        images[name] = 0
        with (
            (path / f"{name}.pixels").open("wb") as pixels_file,
            (path / f"{name}.labels").open("wb") as labels_file,
        ):
            for pixels, labels in split.squares(batch_size=_BATCH):
                pixels_file.write(pixels.tobytes())
                labels_file.write(labels.astype("<i8").tobytes())
                images[name] += len(labels)
                done += len(labels)
                on_progress(done, total)
    facts = CacheFacts(
        spec=spec,
        size=splits.input_size,
        class_names=class_names,
        mean=splits.normalization.mean,
        std=splits.normalization.std,
        images=images,
        left_out=total - sum(images.values()),
    )
    atomic_write_text(
        path / _FACTS, json.dumps(facts.to_json(), indent=2, ensure_ascii=False) + "\n"
    )
    return facts


def read_facts(path: Path) -> CacheFacts:
    """Return what the cache at `path` holds.

    Raises:
        DataError: it is none, not complete, or of another version.
    """
    try:
        held = json.loads((path / _FACTS).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} is no complete cache: it has no {_FACTS}; `tvm-mnas data cache SPEC -o DIR` writes one"
        ) from error
    except ValueError as error:
        raise DataError(f"{path / _FACTS} is damaged ({error}); write the cache again") from error
    try:
        if held["schema"] != SCHEMA:
            raise DataError(f"{path} is a cache of version {held['schema']}, not {SCHEMA}; write it again")  # fmt: skip
        return CacheFacts(
            spec=str(held["spec"]),
            size=int(held["size"]),
            class_names=tuple(str(name) for name in held["class_names"]),
            mean=tuple(float(value) for value in held["mean"]),
            std=tuple(float(value) for value in held["std"]),
            images={name: int(held["images"][name]) for name in _SPLITS},
            left_out=int(held["left_out"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path / _FACTS} is damaged ({error!r}); write the cache again") from error


def _sized(path: Path, size_bytes: int) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found != size_bytes:
        raise DataError(f"{path} has {found} bytes instead of {size_bytes}; write the cache again")


def _path(location: str) -> Path:
    if not location or "\0" in location:
        raise DataError("cache: needs the path of a directory, as in cache:/data/imagenet-160")
    return Path(os.path.expanduser(location))
