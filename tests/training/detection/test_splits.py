"""Batches of images with boxes: they follow from the seed, whoever decodes them, and bad images are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.splits import Batch
from tvm_mnas.training.data.stored import FileStore
from tvm_mnas.training.detection.annotations import AnnotatedImage, DetectionSet, ObjectBox
from tvm_mnas.training.detection.augmentation import Augmentation
from tvm_mnas.training.detection.drawn import DrawnImages
from tvm_mnas.training.detection.splits import DetectionSplit, detection_splits, held_out

DRAWN = DrawnImages(10, seed=1)
PLAIN = Augmentation(expansion=1.0, crops=False, colour=0.0)


def split_of(**changes: object) -> DetectionSplit:
    split = DetectionSplit(DRAWN, DRAWN.annotations, input_size=64, workers=0)
    return replace(split, **changes)  # type: ignore[arg-type]


def batches(split: DetectionSplit, seed: int = 0) -> list[Batch]:
    return list(split.train_batches(batch_size=4, steps=5, seed=seed))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_batches_follow_from_the_seed_and_not_from_who_decodes() -> None:
    first = batches(split_of())
    assert same(first, batches(split_of(workers=2)))
    assert not same(first, batches(split_of(), seed=1))
    rest = split_of().train_batches_after(3, batch_size=4, steps=5, seed=0)
    assert same(first[3:], list(rest))


def test_a_batch_has_images_and_objects_without_a_rest() -> None:
    for images, objects in batches(split_of()):
        assert (images.shape, images.dtype) == ((4, 64, 64, 3), torch.uint8)
        assert objects.dtype == torch.float32
        there = objects[..., 4] >= 0
        assert there.any(1).all() and there.any(0).all()
        boxes = objects[there]
        assert ((boxes[:, :4] >= 0) & (boxes[:, :4] <= 1)).all()
        assert (boxes[:, 2:4] > boxes[:, :2]).all()
        assert (objects[~there] == -1).all()


def test_without_augmentation_boxes_are_those_of_the_file_or_mirrored() -> None:
    split = split_of(augmentation=PLAIN)
    (images, objects), *_ = split.train_batches(batch_size=10, steps=1, seed=0)
    assert len(images) == 10
    told = {len(image.objects): [] for image in DRAWN.annotations.images}  # type: ignore[var-annotated]
    for image in DRAWN.annotations.images:
        sides = [
            (b.left / 160, b.top / 160, (b.left + b.width) / 160, (b.top + b.height) / 160)
            for b in image.objects
        ]
        told[len(sides)] += [sides, [(1 - r, t, 1 - le, b) for le, t, r, b in sides]]
    for image in objects:
        found = image[image[:, 4] >= 0][:, :4].numpy()
        assert any(np.allclose(found, np.array(one), atol=1e-6) for one in told[len(found)])


def test_an_evaluation_has_every_image_once() -> None:
    places = [label for _, labels in split_of().eval_batches(batch_size=4) for label in labels]
    assert [int(place) for place in places] == list(range(10))


def test_the_first_images_are_a_split_of_their_own() -> None:
    few = split_of().first(3)
    assert len(few) == 3
    whole = next(iter(split_of().eval_batches(batch_size=10)))[0]
    images, places = next(iter(few.eval_batches(batch_size=10)))
    assert torch.equal(images, whole[:3])
    assert places.tolist() == [0, 1, 2]
    assert len(split_of().first(99)) == 10


def store_of(tmp_path: Path, damaged: int) -> FileStore:
    for index in range(10):
        file = tmp_path / f"{index}.png"
        DRAWN.draw(index).save(file)
        if index < damaged:
            file.write_bytes(file.read_bytes()[:300])
    return FileStore(tuple(tmp_path / f"{index}.png" for index in range(10)))


def test_damaged_images_are_passed_over_or_named(tmp_path: Path) -> None:
    store = store_of(tmp_path, damaged=2)
    with pytest.raises(DataError, match=r"0\.png cannot be decoded.*--max-bad-images"):
        list(split_of(store=store).eval_batches(batch_size=4))
    split = split_of(store=store, max_bad_images=2)
    seen = [int(place) for _, labels in split.eval_batches(batch_size=4) for place in labels]
    assert seen == list(range(2, 10))
    assert all(len(images) == 4 for images, _ in batches(split))


def test_a_missing_image_and_one_of_other_proportions_are_told(tmp_path: Path) -> None:
    store = store_of(tmp_path, damaged=0)
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png cannot be decoded \(No such file"):
        list(split_of(store=store).eval_batches(batch_size=10))
    other = replace(DRAWN.annotations.images[3], width=80)
    data = replace(DRAWN.annotations, images=(other,))
    split = split_of(store=FileStore((tmp_path / "4.png",)), data=data)
    with pytest.raises(DataError, match="it is 160 x 160, and annotated as 80 x 160"):
        list(split.eval_batches(batch_size=1))


def test_crowds_are_told_and_never_looked_for() -> None:
    box, crowd = ObjectBox(40, 40, 40, 40, 1, 1600.0), ObjectBox(0, 0, 150, 150, 2, 22500.0, True)
    data = DetectionSet(("a", "b", "c"), (AnnotatedImage("x", 160, 160, (box, crowd)),))
    (_, objects), *_ = split_of(data=data, augmentation=PLAIN).train_batches(batch_size=1, steps=1, seed=0)  # fmt: skip
    assert objects[0, :, 4:].tolist() == [[1.0, 0.0], [2.0, 1.0]]


def test_a_part_is_held_out_by_the_seed() -> None:
    (_, kept), (_, held) = held_out(DRAWN, DRAWN.annotations, fraction=0.3, seed=4)
    assert (len(kept.images), len(held.images)) == (7, 3)
    names = sorted(image.file for image in (*kept.images, *held.images))
    assert names == [image.file for image in DRAWN.annotations.images]
    (_, again), _ = held_out(DRAWN, DRAWN.annotations, fraction=0.3, seed=4)
    assert again == kept


def test_a_part_without_an_image_is_refused() -> None:
    empty = replace(DRAWN.annotations, images=())
    parts = [(DRAWN, DRAWN.annotations), (DRAWN, empty), (DRAWN, DRAWN.annotations)]
    with pytest.raises(DataError, match="the validation has none"):
        detection_splits(parts, LoadOptions(input_size=64), name="x")
