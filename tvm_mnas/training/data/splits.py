"""What a data set is to a training: three splits of batches, and which image lands in which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import Normalization

VALIDATION_FRACTION = 0.2
MOST_VALIDATION_IMAGES = 50_000

Batch = tuple[Tensor, Tensor]
"""Images float32 (N,3,S,S), normalized, and labels int64 (N,)."""


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
