"""COCO's annotations as people have them, and damaged ones, each refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_mnas.errors import DataError
from tvm_mnas.training.detection.annotations import AnnotatedImage, ObjectBox
from tvm_mnas.training.detection.coco import read_coco

Content = dict[str, Any]


def _content() -> Content:
    """Two images, one of them empty; category ids with gaps; a crowd."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 3, "file_name": "sub/b.jpg", "width": 20, "height": 30},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 30.5, 20], "area": 400.0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }


def _write(directory: Path, content: object) -> Path:
    path = directory / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_classes_are_in_the_order_of_their_ids_and_images_in_that_of_the_file(
    tmp_path: Path,
) -> None:
    found = read_coco(_write(tmp_path, _content()))
    assert found.class_names == ("person", "cat")
    cat = ObjectBox(10, 5, 30.5, 20, label=1, area=400.0)
    people = ObjectBox(0, 0, 9, 9, label=0, area=81.0, crowd=True)
    assert found.images == (
        AnnotatedImage("a.jpg", 100, 50, (cat, people)),
        AnnotatedImage("sub/b.jpg", 20, 30),
    )
    assert found.dropped == 0


@pytest.mark.parametrize(
    ("box", "left"),
    [
        ([-5, -5, 10, 10], (0, 0, 5, 5)),
        ([90, 40, 30, 30], (90, 40, 10, 10)),
        ([-10, -10, 500, 500], (0, 0, 100, 50)),
        ([5, 5, 0, 10], None),
        ([5, 5, 10, -1], None),
        ([100, 5, 10, 10], None),
        ([5, -20, 10, 20], None),
    ],
)
def test_boxes_are_cut_at_the_edge_and_dropped_beyond_it(
    tmp_path: Path, box: list[float], left: tuple[float, ...] | None
) -> None:
    content = _content()
    content["annotations"] = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": box}]
    found = read_coco(_write(tmp_path, content))
    boxes = [(one.left, one.top, one.width, one.height) for one in found.images[0].objects]
    assert boxes == ([] if left is None else [left])
    assert found.dropped == (1 if left is None else 0)


def test_a_file_without_an_annotation_has_empty_images(tmp_path: Path) -> None:
    content = _content()
    content["annotations"] = []
    assert [image.objects for image in read_coco(_write(tmp_path, content)).images] == [(), ()]


def _without(part: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[part][0].pop(key)


def _with(part: str, key: str, value: object) -> Callable[[Content], None]:
    return lambda content: content[part][0].__setitem__(key, value)


DAMAGES: list[tuple[Callable[[Content], Any], str]] = [
    (lambda content: content.pop("categories"), "categories is no list here"),
    (lambda content: content.update(images=[]), "images is empty here"),
    (
        lambda content: content["images"].append("a.jpg"),
        "images are tables, and number 3 is 'a.jpg'",
    ),
    (_without("images", "width"), "each image has width, and image 1 has none"),
    (_with("images", "height", 0), "height of image 1 must be a whole number above 0, not 0"),
    (_with("images", "file_name", None), "file_name of image 1 must be a text, not None"),
    (_with("images", "id", 3), "two images have the id 3"),
    (_with("categories", "id", 1), "two categories have the id 1"),
    (_with("annotations", "image_id", 8), "annotation 1 has the image_id 8, which nothing"),
    (_with("annotations", "category_id", 2), "annotation 1 has the category_id 2, which nothing"),
    (_with("annotations", "bbox", [1, 2, 3]), "bbox of annotation 1 must be four finite numbers"),
    (_with("annotations", "bbox", [1, 2, 3, "4"]), "bbox of annotation 1 must be four finite"),
    (_with("annotations", "bbox", [1, 2, 3, float("nan")]), "bbox of annotation 1 must be four"),
    (_with("annotations", "area", -1), "area of annotation 1 must be a number >= 0, not -1"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Content], Any], message: str
) -> None:
    content = _content()
    damage(content)
    path = _write(tmp_path, content)
    with pytest.raises(DataError) as refused:
        read_coco(path)
    text = str(refused.value)
    assert message in text
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"])
def test_what_is_no_annotation_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*instances\.json[^\n]*check the file$"):
        read_coco(path)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotations cannot be read from"):
        read_coco(tmp_path / "none.json")


def test_a_file_is_read_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path, _content())
    first = read_coco(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it is known"))
        assert read_coco(path) is first
    content = _content()
    content["annotations"] = []
    os.utime(_write(tmp_path, content), ns=(1, 1))
    assert all(not image.objects for image in read_coco(path).images)
