"""Splits of images that are decoded as they are needed, by worker processes: files, tar shards, tables.

Own code since torchvision's wheels need CUDA builds of torch. Workers return uint8, which is cheap
to move; normalization happens per batch, on the device that trains. An image's crop and flip follow from the seed and
its place in the stream of images alone, so batches do not depend on the number of workers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.decoding import (
    DamagedImageError,
    central_box,
    central_square,
    open_rgb,
    random_box,
    resized,
)
from tvm_mnas.training.data.images import Labels, LoadOptions, Normalization, Pixels
from tvm_mnas.training.data.splits import Batch, DataSplits, divide, draw_indices

_CHECKED = 16
"""Images between two signs of progress of a check."""
IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

Draw = tuple[int, int]
"""An index, and the position in the stream of training draws, or one of the crops below."""
EVALUATION = -1
_SQUARE = -2


class ImageStore(Protocol):
    """Encoded images by number; it is sent to worker processes."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def name(self, index: int) -> str:
        """Return what a person finds the image by, such as its path."""
        ...

    def open(self, index: int) -> Path | BinaryIO:
        """Return the image's file, or its bytes as one."""
        ...


@dataclass(frozen=True, slots=True)
class FileStore:
    """Images in files of their own."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path."""
        return str(self.files[index])

    def open(self, index: int) -> Path:
        """Return the path."""
        return self.files[index]


@dataclass(frozen=True, slots=True)
class SubsetStore:
    """Some images of a store, by their numbers in it."""

    store: ImageStore
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """Return the image's name in the store."""
        return self.store.name(int(self.chosen[index]))

    def open(self, index: int) -> Path | BinaryIO:
        """Return what the store opens."""
        return self.store.open(int(self.chosen[index]))


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """The images of a store with their labels (N,); decoding workers live as long as an iteration does.

    Up to `max_bad_images` that cannot be decoded are passed over: in training the next image of the split takes the
    place of one, in an evaluation it is left out.
    """

    store: ImageStore
    labels: Labels
    input_size: int
    workers: int
    max_bad_images: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def names(self) -> tuple[str, ...]:
        """Return the names of the images, in order."""
        return tuple(self.store.name(index) for index in range(len(self)))

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` batches of exactly `batch_size` random-resized, randomly flipped crops."""
        return self.train_batches_after(0, batch_size=batch_size, steps=steps, seed=seed)

    def train_batches_after(
        self, start: int, *, batch_size: int, steps: int, seed: int
    ) -> Iterator[Batch]:
        """Yield what `train_batches` yields, without its first `start`, of which nothing is decoded."""
        return self._batches(TrainPlan(len(self), batch_size, steps, seed, start), seed=seed)

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield the central crop of every image once, in order."""
        return self._batches(EvalPlan(len(self), batch_size, EVALUATION), seed=0)

    def squares(self, *, batch_size: int) -> Iterator[tuple[Pixels, Labels]]:
        """Yield the central square of every image once, uint8 (N,S,S,3), in order, with its label."""
        plan = EvalPlan(len(self), batch_size, _SQUARE)
        for indices, pixels in self._decoded(plan, seed=0):
            yield pixels, self.labels[indices]

    def find_bad(self, *, on_progress: Callable[[int], None]) -> dict[str, str]:
        """Return what is wrong with each image that cannot be decoded, by name; `on_progress` hears the images done."""
        bad: dict[str, str] = {}
        done = 0
        for _, _, problems in self._loader(EvalPlan(len(self), _CHECKED, _SQUARE), seed=0):
            bad |= {self.store.name(index): problem for index, problem in problems.items()}
            done = min(done + _CHECKED, len(self))
            on_progress(done)
        return bad

    def _batches(self, plan: Iterable[list[Draw]], *, seed: int) -> Iterator[Batch]:
        for indices, pixels in self._decoded(plan, seed=seed):
            yield torch.from_numpy(pixels), torch.from_numpy(self.labels[indices])

    def _decoded(
        self, plan: Iterable[list[Draw]], *, seed: int
    ) -> Iterator[tuple[NDArray[np.int64], Pixels]]:
        bad: dict[int, str] = {}
        for indices, pixels, problems in self._loader(plan, seed=seed):
            bad |= problems
            if len(bad) > self.max_bad_images:
                index, problem = next(iter(bad.items()))
                raise DataError(bad_image(self.store.name(index), problem, self.max_bad_images))
            if len(indices):
                yield indices, pixels

    def _loader(
        self, plan: Iterable[list[Draw]], *, seed: int
    ) -> Iterable[tuple[NDArray[np.int64], Pixels, dict[int, str]]]:
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self.store, self.input_size, seed, self.max_bad_images),
            batch_sampler=plan,
            num_workers=min(self.workers, os.cpu_count() or 1),
            collate_fn=_collate,
            # Its own generator, or else starting workers would draw from torch's global one.
            generator=torch.Generator().manual_seed(seed),
        )
        return loader


def bad_image(name: str, problem: str, allowed: int) -> str:
    """Return what is told of an image that cannot be decoded, where `allowed` may be passed over."""
    text = f"{name} cannot be decoded ({problem})"
    if not allowed:
        return (
            f"{text}; remove or replace the file, or pass over some (--max-bad-images); "
            f"`tvm-mnas data check` names all"
        )
    return (
        f"more than {allowed} images cannot be decoded (--max-bad-images), such as {name} ({problem}); "
        f"`tvm-mnas data check` names all"
    )


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """The draws of each training batch, made as needed: a long training has millions."""

    count: int
    batch_size: int
    steps: int
    seed: int
    start: int

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng(self.seed)
        drawn = draw_indices(self.count, batch_size=self.batch_size, steps=self.steps, rng=rng)
        for step, indices in itertools.islice(enumerate(drawn), self.start, None):
            first = step * self.batch_size
            yield [(int(index), first + place) for place, index in enumerate(indices)]


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """Every index once, in order, for one of the fixed crops."""

    count: int
    batch_size: int
    crop: int = EVALUATION

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            yield [(index, self.crop) for index in range(start, stop)]


@dataclass(frozen=True, slots=True)
class _Decoded:
    """An image (S,S,3) with its index in the split, None if it was left out; and what was wrong on the way to it."""

    index: int
    pixels: Pixels | None
    problems: dict[int, str]


class _Decoder(Dataset[_Decoded]):
    """Decode one image to uint8 (S,S,3), cropped as its draw says."""

    def __init__(self, store: ImageStore, input_size: int, seed: int, max_bad_images: int) -> None:
        self.store = store
        self.input_size = input_size
        self.seed = seed
        self.max_bad_images = max_bad_images

    def __getitem__(self, draw: Draw) -> _Decoded:
        index, position = draw
        problems: dict[int, str] = {}
        while len(problems) <= min(self.max_bad_images, len(self.store) - 1):
            try:
                return _Decoded(index, self._pixels(index, position), problems)
            except DamagedImageError as error:
                # As a value: an exception that crosses from a worker arrives as a traceback of many lines.
                problems[index] = str(error)
            if position < 0:
                break
            index = (index + 1) % len(self.store)
        return _Decoded(index, None, problems)

    def _pixels(self, index: int, position: int) -> Pixels:
        # Twice the target keeps a crop sharp.
        file = self.store.open(index)
        image = open_rgb(file, least_side=2 * self.input_size)
        if position == _SQUARE:
            box = central_square(*image.size, min(image.size))
            return resized(image, box, self.input_size)
        if position == EVALUATION:
            box = central_box(*image.size, input_size=self.input_size)
            return resized(image, box, self.input_size)
        rng = np.random.default_rng((self.seed, position))
        pixels = resized(image, random_box(*image.size, rng=rng), self.input_size)
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _collate(decoded: Sequence[_Decoded]) -> tuple[NDArray[np.int64], Pixels, dict[int, str]]:
    """Return indices, images (N,S,S,3), and what was wrong with damaged files."""
    problems = {index: text for one in decoded for index, text in one.problems.items()}
    good = [(one.index, one.pixels) for one in decoded if one.pixels is not None]
    if not good:
        return np.empty(0, np.int64), np.empty(0, np.uint8), problems
    indices = np.asarray([index for index, _ in good], np.int64)
    return indices, np.stack([pixels for _, pixels in good]), problems


def stored_splits(
    store: ImageStore,
    labels: Labels,
    parts: Sequence[str],
    options: LoadOptions,
    *,
    classes: int,
    name: str,
    validation_fraction: float | None = None,
) -> DataSplits:
    """Return the splits of the images in `store`, whose `labels` (N,) and `parts` are as `divide` takes them.

    Raises:
        DataError: if they cannot be divided so.
    """
    division = divide(labels, parts, seed=options.seed, fraction=validation_fraction)
    train, validation, test = (
        StoredSplit(
            SubsetStore(store, chosen),
            labels[chosen],
            options.input_size,
            options.workers,
            options.max_bad_images,
        )
        for chosen in (division.train, division.validation, division.test)
    )
    return DataSplits(
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        input_size=options.input_size,
        name=name,
        normalization=IMAGENET_NORMALIZATION,
    )
