"""One image file -> RGB pixels as a person sees them, whatever the file's mode; and where it is cropped.

| what the file holds | what comes out |
| --- | --- |
| an orientation tag | upright |
| 16 bits a channel | `value // 257` |
| 32-bit integers, floats | by 0..1, 0..255 or 0..65535 if all values lie in it, else by the image's own range |
| transparency | over white |
| palette, grey, CMYK, LAB, HSV, YCbCr, 1 bit | RGB |
| several frames | the first |
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tvm_mnas.errors import raise_if_foreign
from tvm_mnas.training.data.images import Pixels

CROP_PADDING = 32
"""Evaluation crops the central S / (S + 32) of an image, as the MnasNet authors do."""
CROP_ATTEMPTS = 10
BACKGROUND = (255, 255, 255)
"""What transparent pixels lie over."""

Box = tuple[int, int, int, int]


class DamagedImageError(Exception):
    """An image cannot be decoded; the message says why, without naming it."""


def open_rgb(file: Path | BinaryIO, *, least_side: int | None = None) -> Image.Image:
    """Return the image in `file` as RGB, upright.

    A JPEG may come out smaller than it is, but not below `least_side`: its decoder halves sizes for free.

    Raises:
        DamagedImageError: it is no image, damaged, or so large that it may be an attack.
    """
    try:
        if isinstance(file, Path) and not stat.S_ISREG(os.stat(file).st_mode):
            # Opening a pipe would wait for somebody to write.
            raise DamagedImageError("it is no file")
        with warnings.catch_warnings():
            # Of odd metadata, or of an image half as large as is refused.
            warnings.simplefilter("ignore")
            with Image.open(file) as opened:
                if least_side is not None:
                    opened.draft("RGB", (least_side, least_side))
                opened.load()
                return _rgb(ImageOps.exif_transpose(opened))
    except DamagedImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's formats raise what they like: OSError, SyntaxError, ValueError, struct.error, KeyError ...
        raise_if_foreign(error)
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DamagedImageError(" ".join(text.split()) or type(error).__name__) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image, np.float64) / 257)
    if image.mode in ("I", "F"):
        return _grey(_by_range(np.asarray(image, np.float64)))
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        # Premultiplied modes convert to their plain ones alone.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        seen = (image.convert(plain) if plain else image).convert("RGBA")
        return Image.alpha_composite(
            Image.new("RGBA", seen.size, (*BACKGROUND, 255)), seen
        ).convert("RGB")
    return image.convert("RGB")


def _by_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values as 0..255, from the least range of 0..1, 0..255 and 0..65535 that holds them, else their own."""
    if not np.isfinite(values).all():
        raise DamagedImageError("it has values that are no finite numbers")
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for top in (1, 255, 65535):
            if high <= top:
                return values * (255 / top)
    return (values - low) * (255 / (high - low)) if high > low else np.full_like(values, 127.0)


def _grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only where the image itself is changed
    return converted


def random_box(width: int, height: int, *, rng: np.random.Generator) -> Box:
    """Return a random crop (left, top, right, bottom): 8-100% of the area, aspect ratio 3/4 to 4/3.

    Szegedy et al. 2015, as in every ImageNet recipe. If no such crop fits in ten attempts, the
    largest central square is returned.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return central_square(width, height, min(width, height))


def central_box(width: int, height: int, *, input_size: int) -> Box:
    """Return the central square of S / (S + 32) of the shorter side, for input size S."""
    side = round(input_size / (input_size + CROP_PADDING) * min(width, height))
    return central_square(width, height, max(1, side))


def central_square(width: int, height: int, side: int) -> Box:
    """Return the central square (left, top, right, bottom) of `side` pixels."""
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def resized(image: Image.Image, box: Box, size: int) -> Pixels:
    """Return the part `box` of an RGB image as pixels uint8 (S,S,3) where S is `size`."""
    small = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(small, dtype=np.uint8)
