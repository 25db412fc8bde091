"""Small data sets on disk and in memory, and a tiny architecture, for the training tests."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.colours import write_colours
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.data.images import FASHION_NORMALIZATION, ImageSet
from tvm_mnas.training.data.memory import MemorySplit
from tvm_mnas.training.data.splits import DataSplits


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    """Equal seeds give equal weights on one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_idx() -> Callable[..., None]:
    """A function that writes random IDX files with `train` and `test` images of each class."""

    def write(directory: Path, *, train: int, test: int, classes: int = 10, size: int = 28) -> None:
        rng = np.random.default_rng(0)
        for prefix, per_class in (("train", train), ("t10k", test)):
            count = per_class * classes
            pixels = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
            labels = rng.permutation(np.repeat(np.arange(classes, dtype=np.uint8), per_class))
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
                path = directory / f"{prefix}-{kind}-ubyte.gz"
                path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """The folder that `write_colours` writes."""
    write_colours(tmp_path)
    return tmp_path


@pytest.fixture
def tiny() -> Architecture:
    """An architecture for inputs of 16 that trains in milliseconds."""
    return Architecture.parse(
        "i16_c3_w1:stem8_s22:r2_k3_s11_e3_i8_o8:r1_k3_s22_e1_i8_o16_se0.25:head32:n4"
    )


@pytest.fixture
def tiny_splits() -> DataSplits:
    """Four classes of 16x16 images that a linear rule tells apart: which quarter is bright."""
    rng = np.random.default_rng(0)

    def split(count: int) -> MemorySplit:
        labels = rng.integers(0, 4, count)
        pixels = rng.integers(0, 150, (count, 16, 16), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[4 * label : 4 * label + 4] += 100
        return MemorySplit(ImageSet(pixels, labels, 4), 16, FASHION_NORMALIZATION)

    return DataSplits(
        train=split(400),
        validation=split(200),
        test=split(100),
        classes=4,
        input_size=16,
        name="quarters",
        normalization=FASHION_NORMALIZATION,
    )
