"""Splits, batches and augmentation of images in memory, and the specs that name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import (
    FASHION_NORMALIZATION,
    ImageSet,
    LoadOptions,
    check_shipped,
    network_input,
    read_embedded,
)
from tvm_mnas.training.data.memory import MemorySplit, augment, memory_splits
from tvm_mnas.training.data.sources import check_data, load_data
from tvm_mnas.training.data.splits import draw_indices, split_indices


def as_bytes(split: MemorySplit) -> list[bytes]:
    return [image.tobytes() for image in split.images.pixels]


def test_splits_of_the_embedded_images_do_not_overlap() -> None:
    splits = load_data("embedded", LoadOptions(input_size=28, seed=3))
    train, validation, test = (
        as_bytes(split) for split in (splits.train, splits.validation, splits.test)
    )
    assert (len(train), len(validation), len(test)) == (8000, 2000, 4000)
    assert not set(train) & set(validation)
    assert not set(test) & (set(train) | set(validation))
    embedded_train, embedded_test = read_embedded()
    assert sorted(train + validation) == sorted(i.tobytes() for i in embedded_train.pixels)
    assert test == [image.tobytes() for image in embedded_test.pixels]


def test_validation_is_stratified_and_follows_the_seed() -> None:
    labels = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    kept, held_out = split_indices(labels, fraction=0.2, seed=1)
    assert np.bincount(labels[held_out]).tolist() == [2, 4, 6, 8, 10]
    assert sorted([*kept, *held_out]) == list(range(150))
    assert np.array_equal(held_out, split_indices(labels, fraction=0.2, seed=1)[1])
    assert not np.array_equal(held_out, split_indices(labels, fraction=0.2, seed=2)[1])


def test_split_refuses_to_empty_a_side() -> None:
    with pytest.raises(DataError, match="no training image of class 1"):
        split_indices(np.array([0, 0, 0, 1]), fraction=0.6, seed=0)
    with pytest.raises(DataError, match="single training image"):
        split_indices(np.array([0, 1, 2]), fraction=0.2, seed=0)
    _, few = split_indices(np.array([0, 0, 1, 1, 2]), fraction=0.01, seed=0)
    assert sorted(np.array([0, 0, 1, 1, 2])[few].tolist()) == [0, 1]


def test_default_validation_is_a_fifth_and_at_most_what_the_paper_holds_out() -> None:
    _, small = split_indices(np.repeat([0, 1], 500), fraction=None, seed=0)
    _, large = split_indices(np.repeat(np.arange(1000), 1280), fraction=None, seed=0)
    assert len(small) == 200
    assert len(large) == 50_000


def test_draws_are_full_and_even() -> None:
    rng = np.random.default_rng(0)
    drawn = list(draw_indices(10, batch_size=4, steps=15, rng=rng))
    assert [len(batch) for batch in drawn] == [4] * 15
    assert np.bincount(np.concatenate(drawn)).tolist() == [6] * 10
    few = next(draw_indices(3, batch_size=9, steps=1, rng=rng))
    assert np.bincount(few).tolist() == [3, 3, 3]


def test_augmented_images_are_shifted_or_flipped_originals() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (200, 6, 5), dtype=np.uint8)
    moved = augment(pixels, 2, rng)
    padded = np.pad(pixels, [(0, 0), (2, 2), (2, 2)])
    seen = set()
    for original, result in zip(padded, moved, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if np.array_equal(
                original[top : top + 6, left : left + 5][:, :: -1 if flip else 1], result
            )
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 45  # of the 50 ways


def test_train_batches_follow_the_seed_alone() -> None:
    splits = load_data("embedded", LoadOptions(input_size=32, seed=0))

    def batches(seed: int) -> list[torch.Tensor]:
        return [x for x, _ in splits.train.train_batches(batch_size=8, steps=3, seed=seed)]

    first, again, other = batches(1), batches(1), batches(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (8, 3, 32, 32)
    assert first[0].dtype == torch.float32


def test_eval_batches_cover_every_image_in_order() -> None:
    pixels = np.arange(5 * 28 * 28, dtype=np.int64).reshape(5, 28, 28).astype(np.uint8)
    labels = np.array([3, 1, 4, 1, 5])
    split = MemorySplit(ImageSet(pixels, labels, 6), 28, FASHION_NORMALIZATION)
    batches = list(split.eval_batches(batch_size=2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert torch.cat([y for _, y in batches]).tolist() == labels.tolist()


@pytest.mark.parametrize("size", [32, 40])
def test_a_program_without_torch_prepares_the_very_same_images(size: int) -> None:
    splits = load_data("embedded", LoadOptions(input_size=size, seed=0))
    images, labels = next(splits.test.eval_batches(batch_size=16))
    _, test = read_embedded()
    plain = network_input(test.pixels[:16], size, FASHION_NORMALIZATION)
    assert np.array_equal(images.numpy(), plain)
    assert np.array_equal(labels.numpy(), test.labels[:16])


@pytest.mark.parametrize("size", [24, 28, 32, 48])
def test_any_input_size_can_be_asked_for(size: int) -> None:
    splits = load_data("embedded", LoadOptions(input_size=size, seed=0))
    images, _ = next(splits.validation.eval_batches(batch_size=4))
    assert images.shape == (4, 3, size, size)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mnist", "unknown data 'mnist': it is embedded, imagefolder:PATH"),
        ("", "unknown data ''"),
        ("imagefolder:", "needs the path of a directory"),
        ("idx:", "must be embedded or idx:PATH"),
        ("imagefolder:/no/such/place", "'/no/such/place' is none"),
        ("imagenet:/no/such/place", "'/no/such/place' is none"),
        ("idx:/no/such/place", "'/no/such/place' is no directory"),
    ],
)
def test_wrong_specs_get_one_line(spec: str, words: str) -> None:
    for attempt in (lambda: load_data(spec, LoadOptions(input_size=32)), lambda: check_data(spec)):
        with pytest.raises(DataError) as caught:
            attempt()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_validation_fraction_is_a_share(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        memory_splits(
            *read_embedded(),
            LoadOptions(input_size=32),
            name="embedded",
            validation_fraction=fraction,
        )


def test_the_full_set_is_used_only_when_asked_for(
    tmp_path: Path, write_idx: Callable[..., None]
) -> None:
    write_idx(tmp_path, train=5, test=2)
    check_shipped(f"idx:{tmp_path}")
    splits = load_data(f"idx:{tmp_path}", LoadOptions(input_size=32, seed=0))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 10, 20)
    assert splits.name == f"idx:{tmp_path}"
