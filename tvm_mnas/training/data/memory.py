"""Splits of images in memory: the embedded ones, IDX files, and those of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tvm_mnas.training.data.images import (
    FASHION_NORMALIZATION,
    ImageSet,
    LoadOptions,
    Normalization,
    Pixels,
    ShippedSpec,
    fit,
    is_padded,
    network_input,
    read_embedded,
    read_idx,
)
from tvm_mnas.training.data.splits import Batch, DataSplits, draw_indices, split_indices


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """A split of images in memory, augmented by horizontal flips and, if asked for, by shifts.

    Augmentation happens at the images' own size, before resizing, and costs under a millisecond a
    batch.
    """

    images: ImageSet
    input_size: int
    normalization: Normalization
    crop_padding: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` augmented batches of exactly `batch_size`."""
        rng = np.random.default_rng(seed)
        for indices in draw_indices(len(self), batch_size=batch_size, steps=steps, rng=rng):
            chosen = self.images.take(indices)
            yield self._batch(augment(chosen.pixels, self.crop_padding, rng), chosen.labels)

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield every image once, in order."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self._batch(self.images.pixels[start:stop], self.images.labels[start:stop])

    def _batch(self, pixels: Pixels, labels: NDArray[np.int64]) -> Batch:
        images = network_input(pixels, self.input_size, self.normalization)
        return torch.from_numpy(images), torch.from_numpy(labels.copy())


def load_images(spec: str, options: LoadOptions) -> DataSplits:
    """Return the splits of `embedded`, the Fashion-MNIST subset in the package, or of `idx:PATH`, its full files.

    Raises:
        DataError: an unknown spec, or data that is missing or malformed.
    """
    source = ShippedSpec.parse(spec)
    train, test = read_embedded() if source.kind == "embedded" else read_idx(source.path)
    return memory_splits(train, test, options, name=spec)


def memory_splits(
    train: ImageSet,
    test: ImageSet,
    options: LoadOptions,
    *,
    name: str,
    normalization: Normalization = FASHION_NORMALIZATION,
    validation_fraction: float | None = None,
) -> DataSplits:
    """Return the splits of images in memory; what is held out of `train` for validation follows from the seed.

    `validation_fraction` of the training images, of each class, becomes the validation split; by default a fifth, at
    most 50,000. Grey images are repeated for each channel of the `normalization`.

    Raises:
        DataError: if a class has too few images, or the fraction is none.
    """
    kept, held_out = split_indices(train.labels, fraction=validation_fraction, seed=options.seed)
    input_size = options.input_size

    def split(images: ImageSet) -> MemorySplit:
        # Padded once, here; but resized per batch, since large inputs would not fit in memory.
        if is_padded(images.pixels, input_size):
            images = ImageSet(fit(images.pixels, input_size), images.labels, images.classes)
        return MemorySplit(images, input_size, normalization, crop_padding=options.crop_padding)

    return DataSplits(
        train=split(train.take(kept)),
        validation=split(train.take(held_out)),
        test=split(test),
        classes=train.classes,
        input_size=input_size,
        name=name,
        normalization=normalization,
    )


def augment(pixels: Pixels, padding: int, rng: np.random.Generator) -> Pixels:
    """Return images (N,H,W[,3]) shifted by up to `padding` pixels, half of them flipped."""
    count, height, width = pixels.shape[:3]
    padded = np.pad(
        pixels, [(0, 0), (padding, padding), (padding, padding), *[(0, 0)] * (pixels.ndim - 3)]
    )
    rows = rng.integers(0, 2 * padding + 1, size=(count, 1)) + np.arange(height)
    columns = rng.integers(0, 2 * padding + 1, size=(count, 1)) + np.arange(width)
    flipped = rng.random(count) < 0.5
    columns[flipped] = columns[flipped, ::-1]
    every = np.arange(count)[:, np.newaxis, np.newaxis]
    moved: Pixels = padded[every, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
    return moved
