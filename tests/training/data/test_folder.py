"""Image folders: splits, crops, workers and what is said of a wrong folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.folder import load_folder
from tvm_mnas.training.data.images import LoadOptions, network_input
from tvm_mnas.training.data.sources import check_data, load_data
from tvm_mnas.training.data.splits import to_input
from tvm_mnas.training.data.stored import IMAGENET_NORMALIZATION


def load(root: Path, *, workers: int = 0, seed: int = 0, fraction: float = 0.2):  # type: ignore[no-untyped-def]
    options = LoadOptions(input_size=16, seed=seed, workers=workers)
    return load_folder(root, options, validation_fraction=fraction)


def test_validation_is_held_out_of_train_and_test_comes_from_val(image_folder: Path) -> None:
    splits = load(image_folder)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 6)
    assert not set(splits.train.names()) & set(splits.validation.names())
    assert {Path(name).parent.parent.name for name in splits.validation.names()} == {"train"}
    assert {Path(name).parent.parent.name for name in splits.test.names()} == {"val"}
    assert splits.classes == 2


def test_images_arrive_with_their_labels_and_colours(image_folder: Path) -> None:
    splits = load_data(f"imagenet:{image_folder}", LoadOptions(input_size=16, seed=0, workers=0))
    images, labels = next(splits.test.eval_batches(batch_size=6))
    assert images.shape == (6, 16, 16, 3)
    assert images.dtype == torch.uint8
    images = to_input(images, splits.normalization)
    assert images.shape == (6, 3, 16, 16)
    assert images.dtype == torch.float32
    # Classes are sorted: blue is 0, red is 1.
    redder = images[:, 0].mean(dim=(1, 2)) > images[:, 2].mean(dim=(1, 2))
    assert redder.long().tolist() == labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_batches_do_not_depend_on_the_number_of_workers(image_folder: Path) -> None:
    def batches(workers: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        train = load(image_folder, workers=workers).train
        return list(train.train_batches(batch_size=5, steps=4, seed=seed))

    alone, shared, other = batches(0, 1), batches(2, 1), batches(0, 2)
    assert [len(labels) for _, labels in alone] == [5] * 4
    for (images, labels), (same_images, same_labels) in zip(alone, shared, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    assert not torch.equal(alone[0][0], other[0][0])


def test_loading_leaves_the_global_generator_alone(image_folder: Path) -> None:
    before = torch.random.get_rng_state()
    list(load(image_folder).validation.eval_batches(batch_size=3))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line(image_folder: Path, workers: int) -> None:
    (image_folder / "val" / "red" / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(DataError, match=r"red/1\.jpg cannot be decoded") as caught:
        list(load(image_folder, workers=workers).test.eval_batches(batch_size=2))
    assert "\n" not in str(caught.value)


def test_a_check_finds_a_folder_without_reading_it(image_folder: Path) -> None:
    for path in (image_folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    check_data(f"imagefolder:{image_folder}")
    shutil.rmtree(image_folder / "train")
    with pytest.raises(DataError, match="has directories: val"):
        check_data(f"imagefolder:{image_folder}")


def remove_class(root: Path) -> None:
    shutil.rmtree(root / "val" / "red")
    (root / "val" / "green").mkdir()


def single_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "red")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_class, "red is only in one"),
        (single_class, "at least two"),
    ],
)
def test_wrong_folders_get_one_line(image_folder: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    damage(image_folder)
    with pytest.raises(DataError, match=words) as caught:
        load(image_folder)
    assert "\n" not in str(caught.value)


def test_bytes_are_normalized_as_images_in_memory_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 7, 3), dtype=np.uint8)
    found = to_input(torch.from_numpy(pixels), IMAGENET_NORMALIZATION)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(found, network_input(pixels, 7, IMAGENET_NORMALIZATION), atol=1e-6)
