"""Where training images come from: a spec such as `embedded` becomes three splits of batches.

The validation split is always held out of the training images; the test split is never trained on
and never used to choose a candidate. Nothing here depends on what happens to be installed: the full
Fashion-MNIST is used only where `idx:PATH` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.folder import load_folder
from tvm_mnas.training.data.images import (
    FASHION_NORMALIZATION,
    ImageSet,
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


def load_data(
    spec: str,
    *,
    input_size: int,
    seed: int,
    validation_fraction: float | None = None,
    crop_padding: int = 0,
    workers: int = 4,
) -> DataSplits:
    """Return the splits that `spec` names, for networks with inputs of `input_size` squared.

    `embedded` is the Fashion-MNIST subset inside the package; `idx:PATH` a directory with its full
    files; `imagefolder:PATH` (alias `imagenet:PATH`) has PATH/train/CLASS/*.jpg and PATH/val or
    PATH/test. `validation_fraction` of the training images, of each class and chosen by `seed`,
    becomes the validation split; by default a fifth, at most 50,000. `crop_padding` shifts images in
    memory by up to so many pixels in training: 2 suits trainings of many epochs, but costs 5 points of
    accuracy in one of a single epoch. `workers` processes decode an image folder; images in memory
    need none.

    Raises:
        DataError: an unknown spec, or data that is missing or malformed.
    """
    if input_size < 1:
        raise DataError(f"the input size must be at least 1, not {input_size}")
    if not 0 <= crop_padding < 32:
        raise DataError(f"the crop padding must be 0 to 31 pixels, not {crop_padding}")
    if validation_fraction is not None and not 0.0 < validation_fraction < 1.0:
        raise DataError(
            f"the validation fraction must be between 0 and 1, not {validation_fraction}"
        )
    source = ShippedSpec.parse(spec)
    if source.kind == "imagefolder":
        return load_folder(
            source.path,
            input_size=input_size,
            seed=seed,
            validation_fraction=validation_fraction,
            workers=workers,
        )
    train, test = read_embedded() if source.kind == "embedded" else read_idx(source.path)
    return memory_splits(
        train,
        test,
        input_size=input_size,
        seed=seed,
        name=spec,
        normalization=FASHION_NORMALIZATION,
        validation_fraction=validation_fraction,
        crop_padding=crop_padding,
    )


def memory_splits(
    train: ImageSet,
    test: ImageSet,
    *,
    input_size: int,
    seed: int,
    name: str,
    normalization: Normalization = FASHION_NORMALIZATION,
    validation_fraction: float | None = None,
    crop_padding: int = 0,
) -> DataSplits:
    """Return the splits of images in memory; what is held out of `train` for validation follows from `seed`.

    Grey images are repeated for each channel of the `normalization`. The rest is as for `load_data`.

    Raises:
        DataError: if a class has too few images.
    """
    kept, held_out = split_indices(train.labels, fraction=validation_fraction, seed=seed)

    def split(images: ImageSet) -> MemorySplit:
        # Padded once, here; but resized per batch, since large inputs would not fit in memory.
        if is_padded(images.pixels, input_size):
            images = ImageSet(fit(images.pixels, input_size), images.labels, images.classes)
        return MemorySplit(images, input_size, normalization, crop_padding=crop_padding)

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
