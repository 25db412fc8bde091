"""Image folders such as ImageNet's, decoded by worker processes: PATH/train/CLASS/*.jpg.

Own code since torchvision's wheels need CUDA builds of torch. Workers return uint8, which is cheap
to move; normalization happens per batch. An image's crop and flip follow from the seed and
its place in the stream of images alone, so batches do not depend on the number of workers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import Labels, Normalization, Pixels, folder_parts, network_input
from tvm_mnas.training.data.splits import Batch, DataSplits, draw_indices, split_indices

IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
CROP_PADDING = 32
"""Evaluation crops the central S / (S + 32) of an image, as the MnasNet authors do."""
CROP_ATTEMPTS = 10

Draw = tuple[int, int | None]
"""An index, and the position in the stream of training draws; None asks for the evaluation crop."""
Decoded = tuple[int, Pixels | str]
"""An index with its image, or with what is wrong with its file."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FolderSplit:
    """A split of image files; the decoding workers live as long as an iteration does."""

    files: tuple[Path, ...]
    labels: Labels
    input_size: int
    workers: int
    normalization: Normalization = IMAGENET_NORMALIZATION

    def __len__(self) -> int:
        return len(self.files)

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` batches of exactly `batch_size` random-resized, randomly flipped crops."""
        return self._batches(_TrainPlan(len(self), batch_size, steps, seed), seed=seed)

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield the central crop of every image once, in order."""
        return self._batches(_EvalPlan(len(self), batch_size), seed=0)

    def _batches(self, plan: Iterable[list[Draw]], *, seed: int) -> Iterator[Batch]:
        loader = DataLoader(
            _Decoder(self.files, self.input_size, seed),
            batch_sampler=plan,
            num_workers=min(self.workers, os.cpu_count() or 1),
            collate_fn=_collate,
            # Its own generator, or else starting workers would draw from torch's global one.
            generator=torch.Generator().manual_seed(seed),
        )
        for indices, pixels, problem in loader:
            if problem is not None:
                raise DataError(problem)
            images = network_input(pixels, self.input_size, self.normalization)
            yield torch.from_numpy(images), torch.from_numpy(self.labels[indices])


@dataclass(frozen=True, slots=True)
class _TrainPlan:
    """The draws of each training batch, made as needed: a long training has millions."""

    count: int
    batch_size: int
    steps: int
    seed: int

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng(self.seed)
        drawn = draw_indices(self.count, batch_size=self.batch_size, steps=self.steps, rng=rng)
        for step, indices in enumerate(drawn):
            first = step * self.batch_size
            yield [(int(index), first + place) for place, index in enumerate(indices)]


@dataclass(frozen=True, slots=True)
class _EvalPlan:
    """Every index once, in order, for the evaluation crop."""

    count: int
    batch_size: int

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            yield [(index, None) for index in range(start, stop)]


class _Decoder(Dataset[Decoded]):
    """Decode one image to uint8 (S,S,3), cropped as its draw says."""

    def __init__(self, files: tuple[Path, ...], input_size: int, seed: int) -> None:
        self.files = files
        self.input_size = input_size
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Decoded:
        index, position = draw
        try:
            with Image.open(self.files[index]) as opened:
                # JPEG decoders halve the size for free; twice the target keeps the crop sharp.
                opened.draft("RGB", (2 * self.input_size, 2 * self.input_size))
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # all of them mean a damaged file
            return (
                index,
                f"{self.files[index]} cannot be decoded ({error}); remove or replace the file",
            )
        if position is None:
            box = central_box(*image.size, input_size=self.input_size)
            return index, _resize(image, box, self.input_size)
        rng = np.random.default_rng((self.seed, position))
        pixels = _resize(image, random_box(*image.size, rng=rng), self.input_size)
        return index, pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _collate(decoded: Sequence[Decoded]) -> tuple[NDArray[np.int64], Pixels, str | None]:
    """Return indices, images (N,S,S,3), and what went wrong with the first damaged file.

    As a value, since an exception that crosses from a worker arrives as a traceback of many lines.
    """
    indices = np.asarray([index for index, _ in decoded], np.int64)
    problems = [result for _, result in decoded if isinstance(result, str)]
    if problems:
        return indices, np.empty(0, np.uint8), problems[0]
    return indices, np.stack([result for _, result in decoded if not isinstance(result, str)]), None


def load_folder(
    root: Path, *, input_size: int, seed: int, validation_fraction: float | None, workers: int
) -> DataSplits:
    """Return the splits of the image folder at `root`; validation is held out of `train/`.

    Raises:
        DataError: a directory is missing or empty, or training and test classes differ.
    """
    train_directory, test_directory = folder_parts(root)
    names = _class_names(train_directory)
    test_names = _class_names(test_directory)
    if names != test_names:
        wrong = ", ".join(sorted(set(names) ^ set(test_names))[:3])
        raise DataError(
            f"train/ and {test_directory.name}/ of {str(root)!r} have the same classes, but "
            f"{wrong} is only in one; complete the folder"
        )
    files, labels = _scan(train_directory, names)
    kept, held_out = split_indices(labels, fraction=validation_fraction, seed=seed)
    test_files, test_labels = _scan(test_directory, names)

    def split(indices: NDArray[np.int64]) -> FolderSplit:
        chosen = tuple(files[index] for index in indices)
        return FolderSplit(chosen, labels[indices], input_size, workers)

    return DataSplits(
        train=split(kept),
        validation=split(held_out),
        test=FolderSplit(test_files, test_labels, input_size, workers),
        classes=len(names),
        input_size=input_size,
        name=f"imagefolder:{root}",
        normalization=IMAGENET_NORMALIZATION,
    )


def random_box(width: int, height: int, *, rng: np.random.Generator) -> Box:
    """Return a random crop (left, top, right, bottom): 8-100% of the area, aspect ratio 3/4 to 4/3.

    Szegedy et al. 2015, as in every ImageNet recipe. If no such crop fits in ten attempts, the
    largest central square is returned.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return _central_square(width, height, min(width, height))


def central_box(width: int, height: int, *, input_size: int) -> Box:
    """Return the central square of S / (S + 32) of the shorter side, for input size S."""
    side = round(input_size / (input_size + CROP_PADDING) * min(width, height))
    return _central_square(width, height, max(1, side))


def _central_square(width: int, height: int, side: int) -> Box:
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _resize(image: Image.Image, box: Box, size: int) -> Pixels:
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, dtype=np.uint8)


def _class_names(directory: Path) -> tuple[str, ...]:
    with os.scandir(directory) as entries:
        names = tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))
    if len(names) < 2:
        raise DataError(
            f"{str(directory)!r} must have one directory per class and at least two, not {len(names)}; "
            f"check the path"
        )
    return names


def _scan(directory: Path, names: Sequence[str]) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (directory / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(
                f"every class has images, but {str(directory / name)!r} has none "
                f"({', '.join(sorted(SUFFIXES))}); complete the folder or remove the class"
            )
        files.extend(found)
        labels.extend([label] * len(found))
    return tuple(files), np.asarray(labels, np.int64)
