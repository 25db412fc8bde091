"""The drawn set: what is told of an image is in it, in all sizes, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tvm_mnas.training.detection.coco import read_coco
from tvm_mnas.training.detection.drawn import CLASS_NAMES, DrawnImages, write_coco


def test_images_and_boxes_follow_from_number_and_seed() -> None:
    one, other = DrawnImages(20, seed=1), DrawnImages(20, seed=1)
    assert one.annotations == other.annotations
    assert np.array_equal(np.asarray(one.draw(7)), np.asarray(other.draw(7)))
    assert one.annotations != DrawnImages(20, seed=2).annotations
    assert np.array_equal(np.asarray(Image.open(one.open(7))), np.asarray(one.draw(7)))


def test_all_size_classes_and_shapes_occur() -> None:
    boxes = [box for image in DrawnImages(100, seed=3).annotations.images for box in image.objects]
    areas = [box.area for box in boxes]
    small = sum(area < 32**2 for area in areas)
    large = sum(area >= 96**2 for area in areas)
    assert min(small, large, len(areas) - small - large) > 20
    assert {box.label for box in boxes} == {0, 1, 2}


def test_a_box_has_its_shape_in_it_and_nothing_of_it_around() -> None:
    images = DrawnImages(30, seed=4)
    for index, image in enumerate(images.annotations.images):
        pixels = np.asarray(images.draw(index)).astype(int)
        for box in image.objects:
            left, top, side = int(box.left), int(box.top), int(box.width)
            assert box.left + box.width <= 160 and box.top + box.height <= 160
            middle = pixels[top + side // 2, left + side // 2]
            row = pixels[top + side - 1, left : left + side]
            # The lowest row of a shape is of its colour somewhere, unless another one lies over it.
            if len(image.objects) == 1:
                assert (np.abs(row - middle).sum(1) == 0).any()
                around = pixels[max(top - 1, 0), left : left + side]
                assert (np.abs(around - middle).sum(1) > 0).all() or top == 0


def test_it_is_written_as_coco_has_it(tmp_path: Path) -> None:
    images = DrawnImages(4, seed=5)
    write_coco(tmp_path / "set", {"train": images})
    file = tmp_path / "set" / "annotations" / "instances_train.json"
    assert read_coco(file) == images.annotations
    ids = [one["id"] for one in json.loads(file.read_text())["categories"]]
    assert ids == [3, 13, 23]
    assert images.annotations.class_names == CLASS_NAMES
    stored = Image.open(tmp_path / "set" / "train" / images.annotations.images[2].file)
    assert np.array_equal(np.asarray(stored), np.asarray(images.draw(2)))
