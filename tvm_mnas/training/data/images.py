"""Small image sets in memory, without torch: their sources and how they become network input.

Kept free of torch so that a program which runs an exported network with TVM's runtime alone can
read the embedded test images and prepare them exactly as the training did (:func:`network_input`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvm_mnas.errors import DataError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

MAX_PADDING = 8
"""An image at most this much smaller than the input is padded with zeros; any other is resized."""

_IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, slots=True)
class Normalization:
    """Mean and standard deviation per channel, of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError(f"one mean and one std per channel, not {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise DataError(f"a standard deviation must be positive, not {self.std}")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images uint8 (N,H,W) or (N,H,W,3) with their labels (N,), 0 up to `classes`."""

    pixels: Pixels
    labels: Labels
    classes: int

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise DataError(f"{len(self.pixels)} images but {len(self.labels)} labels")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.classes:
            raise DataError(
                f"labels must be in 0..{self.classes - 1}, not {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """Return the images at `indices`, in that order."""
        return ImageSet(self.pixels[indices], self.labels[indices], self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How data is loaded: for networks with inputs of `input_size` squared; validation is drawn from `seed`.

    `workers` processes decode. Up to `max_bad_images` of a split that cannot be decoded are passed over.
    `crop_padding` shifts images in memory by up to so many pixels in training: 2 suits trainings of many epochs, but
    costs 5 points of accuracy in one of a single epoch.
    """

    input_size: int
    seed: int = 0
    workers: int = 4
    max_bad_images: int = 0
    crop_padding: int = 0

    def __post_init__(self) -> None:
        if self.input_size < 1:
            raise DataError(f"the input size must be at least 1, not {self.input_size}")
        for name in ("seed", "workers", "max_bad_images"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.crop_padding < 32:
            raise DataError(f"the crop padding must be 0 to 31 pixels, not {self.crop_padding}")


@dataclass(frozen=True, slots=True)
class ShippedSpec:
    """What a data spec names: its kind, and where it is unless it is embedded."""

    kind: Literal["embedded", "idx"]
    path: Path

    @classmethod
    def parse(cls, spec: str) -> ShippedSpec:
        """Return the source that `spec` names: embedded or idx:PATH.

        Raises:
            DataError: `spec` has another form.
        """
        if spec == "embedded":
            return cls("embedded", Path())
        kind, _, location = spec.partition(":")
        if "\0" in location:
            location = ""  # no path holds that
        if kind == "idx" and location:
            return cls("idx", Path(os.path.expanduser(location)))
        raise DataError(
            f"images in memory must be embedded or idx:PATH, not {spec!r}; `--data embedded` needs nothing"
        )


def check_shipped(spec: str) -> None:
    """Look whether what `spec` names is there, without reading its images.

    Raises:
        DataError: the spec is wrong, or a directory or file that it needs is missing.
    """
    source = ShippedSpec.parse(spec)
    if source.kind == "idx":
        for name in _IDX_NAMES:
            _find_idx_file(source.path, name)


FASHION_NORMALIZATION = Normalization(mean=(0.286,) * 3, std=(0.353,) * 3)
"""Of all 60,000 training images of Fashion-MNIST, the grey channel repeated."""


def read_embedded() -> tuple[ImageSet, ImageSet]:
    """Return the embedded training set (10,000 images) and test set (4,000), grey 28x28."""
    folder = resources.files("tvm_mnas.training.embedded")
    description = json.loads((folder / "fashion_mnist.json").read_text(encoding="utf-8"))
    with (folder / "fashion_mnist.png").open("rb") as file, Image.open(file) as sheet:
        grid = np.asarray(sheet)
    height, width = description["image_height"], description["image_width"]
    columns, classes = description["columns"], len(description["class_names"])
    rows = grid.shape[0] // height
    tiles = grid.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    pixels = np.ascontiguousarray(tiles).reshape(rows * columns, height, width)
    per_class = description["train_per_class"], description["test_per_class"]
    train_labels, test_labels = (np.repeat(np.arange(classes), count) for count in per_class)
    count = len(train_labels)
    return (
        ImageSet(pixels[:count], train_labels, classes),
        ImageSet(pixels[count:], test_labels, classes),
    )


def embedded_class_names() -> tuple[str, ...]:
    """Return the names of the embedded classes, in the order of their labels."""
    folder = resources.files("tvm_mnas.training.embedded")
    description = json.loads((folder / "fashion_mnist.json").read_text(encoding="utf-8"))
    return tuple(description["class_names"])


def read_idx(directory: Path) -> tuple[ImageSet, ImageSet]:
    """Return the training and test set of the IDX files in `directory`, gzipped or not.

    Raises:
        DataError: the directory or a file is missing, or a file is not IDX.
    """
    sets = []
    for images_name, labels_name in (_IDX_NAMES[:2], _IDX_NAMES[2:]):
        pixels = _read_idx_file(directory, images_name, dimensions=3)
        labels = _read_idx_file(directory, labels_name, dimensions=1).astype(np.int64)
        if not 0 < len(labels) == len(pixels):
            raise DataError(
                f"{images_name} and {labels_name} in {str(directory)!r} belong together and hold "
                f"something, but have {len(pixels)} and {len(labels)} entries; fetch them again"
            )
        sets.append((pixels, labels))
    classes = int(max(labels.max() for _, labels in sets)) + 1
    train, test = (ImageSet(pixels, labels, classes) for pixels, labels in sets)
    return train, test


def _find_idx_file(directory: Path, name: str) -> Path:
    """Return the path of `name` in `directory`, plain or gzipped."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.is_file():
            return path
    what = f"has neither {name} nor {name}.gz" if directory.is_dir() else "is no directory"
    raise DataError(
        f"idx: needs a directory with MNIST-like IDX files, and {str(directory)!r} {what}; "
        f"`apt-get install dataset-fashion-mnist` makes /usr/share/datasets/fashion-mnist"
    )


def _read_idx_file(directory: Path, name: str, *, dimensions: int) -> Pixels:
    path = _find_idx_file(directory, name)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is no IDX file of {dimensions} dimensions; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) - header != np.prod(shape):
        raise DataError(
            f"{path} holds {len(data) - header} bytes where its header says {shape}; "
            f"fetch the file again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def is_padded(pixels: Pixels, input_size: int) -> bool:
    """Return whether `fit` pads these images (N,H,W[,3]) and keeps every pixel."""
    gaps = [input_size - size for size in pixels.shape[1:3]]
    return all(0 <= gap <= MAX_PADDING for gap in gaps)


def fit(pixels: Pixels, input_size: int) -> Pixels:
    """Return images (N,H,W) or (N,H,W,3) as (N,S,S[,3]) where S is `input_size`.

    Images up to `MAX_PADDING` smaller than the input are padded with zeros and so keep every pixel;
    others are resized (bilinear with antialiasing).
    """
    if pixels.shape[1:3] == (input_size, input_size):
        return pixels
    if is_padded(pixels, input_size):
        gaps = [input_size - size for size in pixels.shape[1:3]]
        around = [(gap // 2, gap - gap // 2) for gap in gaps]
        return np.pad(pixels, [(0, 0), *around, *[(0, 0)] * (pixels.ndim - 3)])
    size = (input_size, input_size)
    resized = [
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        for image in pixels
    ]
    return np.stack(resized)


def network_input(
    pixels: Pixels, input_size: int, normalization: Normalization
) -> NDArray[np.float32]:
    """Return images uint8 (N,H,W) or (N,H,W,3) as network input, float32 (N,3,S,S).

    Fitted to `input_size`, scaled to 0..1, normalized per channel; a grey channel is repeated.
    """
    fitted = fit(pixels, input_size)
    if fitted.ndim == 3:
        fitted = fitted[..., np.newaxis]
    # A table of the 256 possible results per channel costs less than arithmetic on every pixel.
    levels = np.arange(256, dtype=np.float32)[:, np.newaxis] / np.float32(255)
    mean = np.asarray(normalization.mean, np.float32)
    std = np.asarray(normalization.std, np.float32)
    table = ((levels - mean) / std).astype(np.float32)
    channels = [
        table[:, channel][fitted[..., min(channel, fitted.shape[-1] - 1)]]
        for channel in range(len(normalization.mean))
    ]
    return np.stack(channels, axis=1)


def shipped_class_names(spec: str) -> tuple[str, ...]:
    """Return the names of the classes of a data spec, in the order of their labels.

    Raises:
        DataError: the spec is wrong, or what it names is missing.
    """
    source = ShippedSpec.parse(spec)
    if source.kind == "embedded":
        return embedded_class_names()
    return tuple(str(label) for label in range(read_idx(source.path)[0].classes))


def read_test_images(spec: str) -> ImageSet:
    """Return the test images of a data spec whose images fit in memory: embedded or idx:PATH.

    Raises:
        DataError: the spec is of another kind or wrong, or what it names is missing.
    """
    if spec.partition(":")[0] not in ("embedded", "idx"):
        raise DataError(
            f"test images must be read from embedded or idx:PATH, not {spec!r}; name image files"
        )
    source = ShippedSpec.parse(spec)
    return read_embedded()[1] if source.kind == "embedded" else read_idx(source.path)[1]
