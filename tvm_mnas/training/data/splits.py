"""What a data set is to a training: three splits of batches, and which image lands in which."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import Normalization

VALIDATION_FRACTION = 0.2
MOST_VALIDATION_IMAGES = 50_000
PARTS = ("train", "validation", "test")
_TEST_SEED = 0
"""Of the images held out for the test where none are given for it: they are the same in every run."""

Batch = tuple[Tensor, Tensor]
"""Images, uint8 (N,S,S,3) for `to_input` to normalize or normalized float32 (N,3,S,S), and labels int64 (N,).

Where images have boxes labels are those of `training.detection.splits.DetectionSplit`.
"""


def to_input(images: Tensor, normalization: Normalization, device: str = "cpu") -> Tensor:
    """Return the images of a batch as a network's input on `device`, float32 (N,3,S,S), channels last.

    Bytes are moved, not floats, and normalized there.
    """
    if images.dtype != torch.uint8:
        return images.to(device=device, memory_format=torch.channels_last, non_blocking=True)
    moved = images.to(device=device, non_blocking=True).permute(0, 3, 1, 2)
    mean, std = (
        torch.tensor(values, device=device).reshape(1, -1, 1, 1)
        for values in (normalization.mean, normalization.std)
    )
    return torch.addcmul(-mean / std, moved.float(), 1 / (255 * std))


class Split(Protocol):
    """One split: how many images, and its batches for training or for evaluation."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` full, augmented batches, reshuffled at each epoch, from `seed` alone."""
        ...

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield every image once, in order and not augmented; the last batch may be smaller."""
        ...


@runtime_checkable
class SkippingSplit(Protocol):
    """A split that can begin in the middle of its training batches without making those before."""

    def train_batches_after(
        self, start: int, *, batch_size: int, steps: int, seed: int
    ) -> Iterator[Batch]:
        """Yield what `train_batches` yields, without its first `start`."""
        ...


@runtime_checkable
class CheckedSplit(Protocol):
    """A split that can tell which of its images cannot be decoded."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def find_bad(self, *, on_progress: Callable[[int], None]) -> dict[str, str]:
        """Return what is wrong with each of them, by name; `on_progress` hears the images done."""
        ...


def batches_from(
    split: Split, start: int, *, batch_size: int, steps: int, seed: int
) -> Iterator[Batch]:
    """Return the training batches of `split` without the first `start`: those of a resumed training."""
    if start and isinstance(split, SkippingSplit):
        return split.train_batches_after(start, batch_size=batch_size, steps=steps, seed=seed)
    batches = split.train_batches(batch_size=batch_size, steps=steps, seed=seed)
    return itertools.islice(batches, start, None)


@dataclass(frozen=True, slots=True)
class DataSplits:
    """The three splits of one data set, and what a network for them needs to know."""

    train: Split
    validation: Split
    test: Split
    classes: int
    input_size: int
    name: str
    normalization: Normalization
    boxes: bool = False
    """Whether images have boxes rather than classes: the labels are `training.detection.splits.DetectionSplit`'s."""


def split_indices(
    labels: NDArray[np.int64], *, fraction: float | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ascending indices kept for training and held out, `fraction` of each class.

    At least one image of each class that has two is held out. Without a fraction it is a fifth, but
    at most the paper's 50,000 images in all.

    Raises:
        DataError: the fraction is not in 0..1 or leaves a class without training images, or nothing is held out.
    """
    if fraction is not None and not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must be between 0 and 1, not {fraction}")
    if fraction is None:
        fraction = min(VALIDATION_FRACTION, MOST_VALIDATION_IMAGES / len(labels))
    rng = np.random.default_rng(seed)
    kept: list[NDArray[np.int64]] = []
    held_out: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rng.shuffle(members)
        count = max(round(fraction * len(members)), min(1, len(members) - 1))
        if count == len(members):
            raise DataError(
                f"a validation fraction of {fraction} leaves no training image of class {label}, "
                f"which has {len(members)}; use a smaller one"
            )
        held_out.append(members[:count])
        kept.append(members[count:])
    held = np.sort(np.concatenate(held_out))
    if not len(held):
        raise DataError(
            "every class has a single training image, so none can be held out for validation; "
            "add images"
        )
    return np.sort(np.concatenate(kept)), held


@dataclass(frozen=True, slots=True)
class Division:
    """Which images, by number, are for training, validation and test."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def divide(
    labels: NDArray[np.int64], parts: Sequence[str], *, seed: int, fraction: float | None = None
) -> Division:
    """Return the division of images with `labels` (N,) that lie in `parts`: train, validation or test, each.

    The test is what lies in test; without that, what lies in validation; without both, a fifth of the rest, the same
    for every seed. The validation is what lies in validation, unless that is the test; else it is held out of the
    rest, `fraction` of each class, by `seed`.

    Raises:
        DataError: nothing is left for training, or a class has too few images.
    """
    places = {part: np.flatnonzero(np.asarray(parts) == part) for part in PARTS}
    train, validation, test = (places[part] for part in PARTS)
    if not len(train):
        raise DataError(
            "there are images to train with, but none is in the training part; add some"
        )
    if not len(test):
        if len(validation):
            test, validation = validation, test
        else:
            kept, held_out = split_indices(labels[train], fraction=None, seed=_TEST_SEED)
            train, test = train[kept], train[held_out]
    if not len(validation):
        kept, held_out = split_indices(labels[train], fraction=fraction, seed=seed)
        train, validation = train[kept], train[held_out]
    return Division(train, validation, test)


def draw_indices(
    count: int, *, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` arrays of `batch_size` indices below `count`, each epoch a new permutation.

    Epochs run into each other, so that every batch is full and every index occurs equally often.
    """
    pool: NDArray[np.int64] = np.empty(0, np.int64)
    for _ in range(steps):
        while len(pool) < batch_size:
            pool = np.concatenate([pool, rng.permutation(count)])
        yield pool[:batch_size]
        pool = pool[batch_size:]
