"""A check of images with boxes, and what has no use for a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_mnas.errors import DataError
from tvm_mnas.training.detection.drawn import DrawnImages, write_coco
from tvm_mnas.workflows.data import check_images, make_cache


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write_coco(root, {"train": DrawnImages(10, seed=1), "val": DrawnImages(4, seed=2)})
    return root


def test_a_check_names_missing_and_damaged_images_and_counts_boxes_that_are_none(
    coco: Path,
) -> None:
    (coco / "train" / "drawn-1-00003.png").unlink()
    (coco / "val" / "drawn-2-00001.png").write_bytes(b"no image")
    file = coco / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 20]
    content["annotations"][1]["bbox"] = [500, 5, 20, 20]
    file.write_text(json.dumps(content))
    heard: list[tuple[str, int, int]] = []
    found = check_images(f"coco:{coco}", workers=0, on_progress=lambda *told: heard.append(told))
    assert found.class_names == ("circle", "square", "triangle")
    assert sum(split.images for split in found.splits) == 14
    bad = {name: text for split in found.splits for name, text in split.bad.items()}
    assert set(bad) == {
        str(coco / "train" / "drawn-1-00003.png"),
        str(coco / "val" / "drawn-2-00001.png"),
    }
    assert "No such file" in bad[str(coco / "train" / "drawn-1-00003.png")]
    assert found.notes == (
        "test: 2 boxes without an area, or outside of their images, are left out",
    )
    assert heard[-1] == ("test", 4, 4)


def test_boxes_are_not_cached(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a cache is of images with classes, and coco:.* has boxes"):
        make_cache(
            f"coco:{coco}",
            tmp_path / "cache",
            size=16,
            workers=0,
            seed=0,
            max_bad_images=0,
            on_progress=lambda done, total: None,
        )
    assert not (tmp_path / "cache").exists()
