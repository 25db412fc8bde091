"""Splits of annotated images: decoded by worker processes, augmented as a recipe says, with their boxes beside them.

As with other images, what becomes of one follows from the seed and its place in the stream alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.decoding import DamagedImageError, open_rgb
from tvm_mnas.training.data.images import LoadOptions, Pixels
from tvm_mnas.training.data.splits import Batch, DataSplits
from tvm_mnas.training.data.stored import (
    EVALUATION,
    IMAGENET_NORMALIZATION,
    Draw,
    EvalPlan,
    ImageStore,
    SubsetStore,
    TrainPlan,
    bad_image,
)
from tvm_mnas.training.detection.annotations import AnnotatedImage, DetectionSet
from tvm_mnas.training.detection.augmentation import (
    PUBLISHED,
    WHOLE,
    Augmentation,
    Boxes,
    draw_view,
    look,
    mirrored,
    recoloured,
    see,
)

AnnotatedStore = tuple[ImageStore, DetectionSet]
"""A store, and what is in its images, in the same order."""
LABEL = 6
"""Numbers of an object in a batch: left, top, right, bottom in 0..1, class, and 1 for a crowd; -1 for no object."""
_CHECKED = 16
"""Images between two signs of progress of a check."""
_ASPECT = 0.02
"""By how much an image's proportions may be others than those it was annotated with."""
_LEAST_SIDE = 0.01
"""A box of less than this part of a view, after it was cut, is nothing to learn from."""


@dataclass(frozen=True, slots=True)
class DetectionSplit:
    """Annotated images and the store that they are in, in the same order.

    Up to `max_bad_images` that cannot be decoded are passed over, as in other splits. Batches of training have labels
    float32 (N,O,6), `LABEL` numbers of each object, and those of an evaluation the images' places int64 (N,).
    """

    store: ImageStore
    data: DetectionSet
    input_size: int
    workers: int
    max_bad_images: int = 0
    augmentation: Augmentation = PUBLISHED

    def __len__(self) -> int:
        return len(self.data.images)

    def augmented(self, augmentation: Augmentation) -> DetectionSplit:
        """Return it with another augmentation."""
        return replace(self, augmentation=augmentation)

    def first(self, count: int) -> DetectionSplit:
        """Return it with the first `count` images alone."""
        chosen = np.arange(min(count, len(self)))
        images = self.data.images[:count]
        return replace(
            self, store=SubsetStore(self.store, chosen), data=replace(self.data, images=images)
        )

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield `steps` full, augmented batches, reshuffled at each epoch, from `seed` alone."""
        return self.train_batches_after(0, batch_size=batch_size, steps=steps, seed=seed)

    def train_batches_after(
        self, start: int, *, batch_size: int, steps: int, seed: int
    ) -> Iterator[Batch]:
        """Yield what `train_batches` yields, without its first `start`, of which nothing is decoded."""
        plan = TrainPlan(len(self), batch_size, steps, seed, start)
        for _, pixels, objects in self._decoded(plan, seed=seed):
            yield torch.from_numpy(pixels), torch.from_numpy(_padded(objects))

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield every image once, in order, scaled as a whole; the last batch may be smaller."""
        plan = EvalPlan(len(self), batch_size)
        for indices, pixels, _ in self._decoded(plan, seed=0):
            yield torch.from_numpy(pixels), torch.from_numpy(indices)

    def find_bad(self, *, on_progress: Callable[[int], None]) -> dict[str, str]:
        """Return what is wrong with each image that cannot be decoded, by name; `on_progress` hears the images done."""
        bad: dict[str, str] = {}
        done = 0
        for decoded in self._loader(EvalPlan(len(self), _CHECKED), seed=0):
            for one in decoded:
                bad |= {self.store.name(index): text for index, text in one.problems.items()}
            done += len(decoded)
            on_progress(done)
        return bad

    def _decoded(
        self, plan: Iterable[list[Draw]], *, seed: int
    ) -> Iterator[tuple[NDArray[np.int64], Pixels, list[NDArray[np.float32]]]]:
        bad: dict[int, str] = {}
        for decoded in self._loader(plan, seed=seed):
            for one in decoded:
                bad |= one.problems
            if len(bad) > self.max_bad_images:
                index, problem = next(iter(bad.items()))
                raise DataError(bad_image(self.store.name(index), problem, self.max_bad_images))
            good = [
                (one.index, one.pixels, one.objects) for one in decoded if one.pixels is not None
            ]
            if good:
                indices, pixels, objects = zip(*good, strict=True)
                yield np.array(indices, np.int64), np.stack(pixels), list(objects)

    def _loader(self, plan: Iterable[list[Draw]], *, seed: int) -> Iterable[list[_Decoded]]:
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self, seed),
            batch_sampler=plan,
            num_workers=min(self.workers, os.cpu_count() or 1),
            collate_fn=list,
            # Its own generator, or else starting workers would draw from torch's global one.
            generator=torch.Generator().manual_seed(seed),
        )
        return loader


def detection_splits(
    parts: Sequence[AnnotatedStore],
    options: LoadOptions,
    *,
    name: str,
) -> DataSplits:
    """Return the splits of annotated images: those for training, validation and test, each with their store.

    Raises:
        DataError: if one has no image.
    """
    for part, (_, data) in zip(("training", "validation", "test"), parts, strict=True):
        if not data.images:
            raise DataError(f"{name}: each part has images, and the {part} has none; add some")
    train, validation, test = (
        DetectionSplit(store, data, options.input_size, options.workers, options.max_bad_images)
        for store, data in parts
    )
    return DataSplits(
        train=train,
        validation=validation,
        test=test,
        classes=len(train.data.class_names),
        input_size=options.input_size,
        name=name,
        normalization=IMAGENET_NORMALIZATION,
        boxes=True,
    )


def held_out(
    store: ImageStore, data: DetectionSet, *, fraction: float, seed: int
) -> tuple[AnnotatedStore, AnnotatedStore]:
    """Return a set without a `fraction` of its images, drawn from `seed`, and those; at least one is in each."""
    count = len(data.images)
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(1, round(fraction * count)), count - 1)
    chosen = np.sort(order[held:]), np.sort(order[:held])
    first, second = (
        (
            SubsetStore(store, numbers),
            replace(data, images=tuple(data.images[int(number)] for number in numbers)),
        )
        for numbers in chosen
    )
    return first, second


@dataclass(frozen=True, slots=True)
class _Decoded:
    """An image with its place in the split, None if it was left out; its objects, and what was wrong on the way."""

    index: int
    pixels: Pixels | None
    objects: NDArray[np.float32]
    problems: dict[int, str]


class _Decoder(Dataset[_Decoded]):
    """Decode one image and its objects, augmented by its draw."""

    def __init__(self, split: DetectionSplit, seed: int) -> None:
        self.split = split
        self.seed = seed

    def __getitem__(self, draw: Draw) -> _Decoded:
        index, position = draw
        problems: dict[int, str] = {}
        while len(problems) <= min(self.split.max_bad_images, len(self.split) - 1):
            try:
                pixels, objects = self._seen(index, position)
                return _Decoded(index, pixels, objects, problems)
            except DamagedImageError as error:
                problems[index] = str(error)
            if position < 0:
                break
            index = (index + 1) % len(self.split)
        return _Decoded(index, None, np.empty((0, LABEL), np.float32), problems)

    def _seen(self, index: int, position: int) -> tuple[Pixels, NDArray[np.float32]]:
        split = self.split
        annotated = split.data.images[index]
        image = open_rgb(split.store.open(index), least_side=2 * split.input_size)
        _check_proportions(image.size, annotated)
        boxes, kinds = _objects(annotated)
        if position == EVALUATION:
            pixels = look(image, WHOLE, split.input_size)
            return pixels, np.concatenate([boxes, kinds], 1).astype(np.float32)
        how, rng = split.augmentation, np.random.default_rng((self.seed, position))
        view = draw_view(boxes[kinds[:, 1] == 0], how, rng)
        pixels = look(image, view, split.input_size)
        seen, inside = see(boxes, view)
        sides = seen[:, 2:] - seen[:, :2]
        inside &= (sides > _LEAST_SIDE).all(1)
        seen, kinds = seen[inside], kinds[inside]
        if how.colour:
            pixels = recoloured(pixels, how.colour, rng)
        if rng.random() < 0.5:
            pixels, seen = mirrored(pixels, seen)
        return pixels, np.concatenate([seen, kinds], 1).astype(np.float32)


def _objects(image: AnnotatedImage) -> tuple[Boxes, NDArray[np.float64]]:
    """Return the boxes (O,4) of an image's objects in parts of it, and their classes and crowds (O,2)."""
    size = np.array([image.width, image.height] * 2, np.float64)
    boxes = np.array(
        [[o.left, o.top, o.left + o.width, o.top + o.height] for o in image.objects], np.float64
    ).reshape(-1, 4)
    kinds = np.array([[o.label, o.crowd] for o in image.objects], np.float64).reshape(-1, 2)
    return boxes / size, kinds


def _check_proportions(size: tuple[int, int], annotated: AnnotatedImage) -> None:
    width, height = size
    found, told = width / height, annotated.width / annotated.height
    # A decoder may halve a size; what it does to the proportions is rounding.
    if abs(found / told - 1) > _ASPECT + 1 / min(width, height):
        raise DamagedImageError(
            f"it is {width} x {height}, and annotated as {annotated.width} x {annotated.height}"
        )


def _padded(objects: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the objects of a batch as (N,O,6), O the most of an image, at least 1."""
    most = max(1, *(len(one) for one in objects))
    padded = np.full((len(objects), most, LABEL), -1.0, np.float32)
    for place, one in enumerate(objects):
        padded[place, : len(one)] = one
    return padded
