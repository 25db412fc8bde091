"""The embedded sheet, IDX files, fitting and normalization, all without torch."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import (
    FASHION_NORMALIZATION,
    ImageSet,
    Normalization,
    embedded_class_names,
    fit,
    network_input,
    read_embedded,
    read_idx,
)
from tvm_mnas.training.embedded.build_sheet import build


def test_embedded_images_are_the_published_ones() -> None:
    train, test = read_embedded()
    assert train.pixels.shape == (10_000, 28, 28)
    assert test.pixels.shape == (4_000, 28, 28)
    assert np.bincount(train.labels).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [400] * 10
    folder = resources.files("tvm_mnas.training.embedded")
    stated = json.loads((folder / "fashion_mnist.json").read_text(encoding="utf-8"))
    every = np.concatenate([train.pixels, test.pixels])
    assert hashlib.sha256(every.tobytes()).hexdigest() == stated["pixels_sha256"]
    assert len(embedded_class_names()) == 10


def test_no_test_image_is_among_the_training_images() -> None:
    train, test = read_embedded()
    known = {image.tobytes() for image in train.pixels}
    assert len(known) == len(train)
    assert not any(image.tobytes() in known for image in test.pixels)


def test_normalization_centres_the_embedded_images() -> None:
    train, _ = read_embedded()
    batch = network_input(train.pixels, 28, FASHION_NORMALIZATION)
    assert batch.shape == (10_000, 3, 28, 28)
    assert abs(float(batch.mean())) < 0.02
    assert abs(float(batch.std()) - 1.0) < 0.02


def test_the_licence_notice_ships_with_the_images() -> None:
    folder = resources.files("tvm_mnas.training.embedded")
    notice = (folder / "LICENSE.fashion-mnist").read_text(encoding="utf-8")
    assert "Zalando SE" in notice
    assert "Permission is hereby granted" in notice


def test_reading_and_preparing_images_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from tvm_mnas.training.data.images import *\n"
        "network_input(read_embedded()[1].pixels[:2], 32, FASHION_NORMALIZATION)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sheet_is_rebuilt_reproducibly(tmp_path: Path, write_idx: Callable[..., None]) -> None:
    write_idx(tmp_path, train=1001, test=401)
    build(tmp_path, tmp_path / "first")
    build(tmp_path, tmp_path / "second")
    first, second = (tmp_path / name / "fashion_mnist.png" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    train, _ = read_idx(tmp_path)
    with Image.open(first) as sheet:
        corner = np.asarray(sheet)[:28, :28]
    members = train.pixels[train.labels == 0]
    assert any(np.array_equal(corner, image) for image in members[:3])


def test_idx_files_round_trip(tmp_path: Path, write_idx: Callable[..., None]) -> None:
    write_idx(tmp_path, train=3, test=2, classes=4, size=7)
    train, test = read_idx(tmp_path)
    assert train.pixels.shape == (12, 7, 7)
    assert sorted(test.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert train.classes == test.classes == 4


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "has neither"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be read"),
        (lambda path: path.write_bytes(b"not gzip"), "cannot be read"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x01")), "no IDX file"),
        (
            lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0" * 11 + b"x")),
            "0 and 20",
        ),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\1" * 3)), "header"),
    ],
    ids=["missing", "torn", "not-gzip", "wrong-dimensions", "short", "wrong-length"],
)
def test_damaged_idx_files_get_one_line(
    tmp_path: Path,
    write_idx: Callable[..., None],
    damage: Callable[[Path], object],
    words: str,
) -> None:
    write_idx(tmp_path, train=2, test=2)
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=words) as caught:
        read_idx(tmp_path)
    assert "\n" not in str(caught.value)


def test_fit_pads_small_gaps_and_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (3, 28, 28), dtype=np.uint8)
    fitted = fit(pixels, 32)
    assert np.array_equal(fitted[:, 2:30, 2:30], pixels)
    assert int(fitted.astype(int).sum()) == int(pixels.astype(int).sum())


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [16, 27, 28, 33, 64])
def test_fit_gives_the_size_asked_for(size: int, channels: tuple[int, ...]) -> None:
    pixels = np.full((2, 28, 28, *channels), 200, np.uint8)
    fitted = fit(pixels, size)
    assert fitted.shape == (2, size, size, *channels)
    assert fitted[:, size // 2, size // 2].min() == 200


def test_network_input_equals_the_plain_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    normalization = Normalization(mean=(0.5, 0.25, 0.1), std=(0.2, 0.3, 0.4))
    mean, std = np.array(normalization.mean), np.array(normalization.std)
    plain = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    prepared = network_input(pixels, 9, normalization)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, plain, atol=1e-5)


def test_grey_images_are_repeated() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    prepared = network_input(pixels, 28, FASHION_NORMALIZATION)
    assert prepared.shape == (4, 3, 28, 28)
    assert np.array_equal(prepared[:, 0], prepared[:, 1])
    assert np.array_equal(prepared[:, 0], prepared[:, 2])


def test_impossible_sets_and_normalizations_cannot_be_built() -> None:
    pixels = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(DataError, match="2 images but 3 labels"):
        ImageSet(pixels, np.zeros(3, np.int64), 2)
    with pytest.raises(DataError, match=r"labels must be in 0\.\.1"):
        ImageSet(pixels, np.array([0, 2]), 2)
    with pytest.raises(DataError, match="positive"):
        Normalization(mean=(0.5,), std=(0.0,))
