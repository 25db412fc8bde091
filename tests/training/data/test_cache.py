"""A decoded copy gives what decoding gives, and says when it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.colours import write_colours
from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, class_names, load_data
from tvm_mnas.workflows.data import check_images, make_cache


def silent(*told: object) -> None:
    pass


@pytest.fixture
def spec(tmp_path: Path) -> str:
    write_colours(tmp_path / "colours")
    return f"imagefolder:{tmp_path / 'colours'}"


def cached(spec: str, directory: Path, *, size: int = 24, allowed: int = 0) -> str:
    make_cache(
        spec, directory, size=size, workers=0, seed=0, max_bad_images=allowed, on_progress=silent
    )
    return f"cache:{directory}"


def test_a_copy_has_the_splits_labels_and_names_of_its_source(spec: str, tmp_path: Path) -> None:
    copy = cached(spec, tmp_path / "copy")
    assert check_data(copy) == ()
    assert class_names(copy) == class_names(spec) == ("blue", "red")
    options = LoadOptions(input_size=16, workers=0)
    source, held = load_data(spec, options), load_data(copy, options)
    assert held.classes == 2
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(held, name), getattr(source, name)
        assert len(ours) == len(theirs)
        (images, labels), (decoded, decoded_labels) = (
            next(split.eval_batches(batch_size=len(split))) for split in (ours, theirs)
        )
        assert torch.equal(labels, decoded_labels)
        # The crop of a resized image, beside the crop of the image.
        assert images.dtype == decoded.dtype == torch.uint8
        means = (split.float().mean(dim=(1, 2)) for split in (images, decoded))
        assert torch.sub(*means).abs().max() < 3


def test_an_image_of_the_copys_size_is_copied_unchanged(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 2, 4, 12, 12, 3), dtype=np.uint8)
    for part, name in enumerate(("train", "val")):
        for label, kind in enumerate("ab"):
            (tmp_path / "x" / name / kind).mkdir(parents=True)
            for index in range(4):
                image = Image.fromarray(pixels[part, label, index])
                image.save(tmp_path / "x" / name / kind / f"{index}.png")
    copy = cached(f"imagefolder:{tmp_path / 'x'}", tmp_path / "copy", size=12)
    held = load_data(copy, LoadOptions(input_size=12))
    assert np.array_equal(held.test.pixels, pixels[1].reshape(8, 12, 12, 3))  # type: ignore[attr-defined]
    assert held.test.labels.tolist() == [0] * 4 + [1] * 4  # type: ignore[attr-defined]


def test_training_crops_follow_the_seed(spec: str, tmp_path: Path) -> None:
    train = load_data(cached(spec, tmp_path / "copy"), LoadOptions(input_size=16)).train

    def batches(seed: int) -> list[torch.Tensor]:
        return [x for x, _ in train.train_batches(batch_size=6, steps=3, seed=seed)]

    first, again, other = batches(1), batches(1), batches(2)
    assert first[0].shape == (6, 16, 16, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_damaged_images_are_left_out_and_counted(spec: str, tmp_path: Path) -> None:
    (tmp_path / "colours" / "train" / "red" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be decoded"):
        cached(spec, tmp_path / "refused")
    with pytest.raises(DataError, match="no complete cache"):
        check_data(f"cache:{tmp_path / 'refused'}")
    copy = cached(spec, tmp_path / "copy", allowed=1)
    facts = json.loads((tmp_path / "copy" / "cache.json").read_text())
    assert (sum(facts["images"].values()), facts["left_out"]) == (25, 1)
    splits = load_data(copy, LoadOptions(input_size=16))
    assert sum(len(split) for split in (splits.train, splits.validation, splits.test)) == 25


def test_a_check_counts_and_names_what_is_damaged(spec: str, tmp_path: Path) -> None:
    root = tmp_path / "colours" / "train"
    (root / "red" / "0.png").write_bytes(b"")
    (root / "blue" / "folder.jpg").mkdir()
    heard: list[tuple[str, int, int]] = []
    found = check_images(spec, workers=0, on_progress=lambda *told: heard.append(told))
    assert found.bad == 2
    assert {name for split in found.splits for name in split.bad} == {
        str(root / "red" / "0.png"),
        str(root / "blue" / "folder.jpg"),
    }
    assert sum(split.images for split in found.splits) == 27
    assert heard[-1] == ("test", 6, 6)


def _too_small(copy: Path) -> int:
    return 32


def _torn(copy: Path) -> int:
    (copy / "train.pixels").write_bytes(b"123")
    return 16


def _newer(copy: Path) -> int:
    facts = json.loads((copy / "cache.json").read_text())
    (copy / "cache.json").write_text(json.dumps(facts | {"schema": 99}))
    return 16


def _damaged(copy: Path) -> int:
    (copy / "cache.json").write_text('{"schema": 1}')
    return 16


def _no_json(copy: Path) -> int:
    (copy / "cache.json").write_text("{")
    return 16


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_too_small, "has images of 24, too small for inputs of 32"),
        (_torn, "has 3 bytes instead of"),
        (_newer, "of version 99"),
        (_damaged, "is damaged"),
        (_no_json, "is damaged"),
    ],
)
def test_a_copy_that_cannot_be_used_is_one_line(spec: str, tmp_path: Path, damage, words) -> None:  # type: ignore[no-untyped-def]
    copy = cached(spec, tmp_path / "copy")
    size = damage(tmp_path / "copy")
    with pytest.raises(DataError) as caught:
        load_data(copy, LoadOptions(input_size=size))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_is_not_written_where_something_is_or_of_images_in_memory(
    spec: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="holds something"):
        cached(spec, tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"
    with pytest.raises(DataError, match="in memory already"):
        cached("embedded", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
