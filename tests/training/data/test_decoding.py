"""What comes out of an image file, whatever its mode, orientation or depth; and what is said of one that is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tvm_mnas.training.data.decoding import (
    DamagedImageError,
    central_box,
    open_rgb,
    random_box,
    resized,
)

RED = (200, 30, 30)


def red() -> Image.Image:
    return Image.new("RGB", (12, 10), RED)


def pixels_of(path: Path) -> np.ndarray:
    image = open_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(("suffix", "order"), [("png", "<u2"), ("tiff", "<u2"), ("tiff", ">u2")])
def test_sixteen_bits_keep_their_range(tmp_path: Path, suffix: str, order: str) -> None:
    row = np.linspace(0, 65535, 48).astype(np.uint16)
    values = row[None, :].repeat(4, 0)
    path = tmp_path / f"ramp.{suffix}"
    if order == "<u2":
        Image.fromarray(values).save(path)
    else:
        image = Image.frombytes("I;16B", (48, 4), values.astype(order).tobytes())
        image.save(path)
    assert (pixels_of(path)[0] == (row // 257)[:, None]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1.0], [0, 127, 255]),
        ([0.5, 0.5, 0.5], [127, 127, 127]),
        ([0, 100.0, 255.0], [0, 100, 255]),
        ([0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 127, 255]),
        ([-3.0, -3.0, -3.0], [127, 127, 127]),
        ([0, 500000.0, 1e6], [0, 127, 255]),
    ],
)
def test_floats_are_seen_by_the_range_that_holds_them(
    tmp_path: Path, values: list[float], expected: list[int]
) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.asarray([values], np.float32)).save(path)
    assert pixels_of(path)[0, :, 0].tolist() == expected


def test_long_integers_are_seen_by_the_range_that_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "long.tiff"
    Image.fromarray(np.asarray([[0, 2**20, 2**21]], np.int32)).save(path)
    assert pixels_of(path)[0, :, 1].tolist() == [0, 127, 255]


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nan.tiff"
    Image.fromarray(np.asarray([[0, np.nan]], np.float32)).save(path)
    with pytest.raises(DamagedImageError, match="no finite numbers"):
        open_rgb(path)


_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("tag", _TURNS)
def test_an_image_is_upright_whatever_its_orientation_tag(
    tmp_path: Path, tag: int, suffix: str
) -> None:
    upright = Image.new("RGB", (48, 32))
    corners = {(0, 0): "red", (24, 0): "lime", (0, 16): "blue", (24, 16): "white"}
    for (left, top), colour in corners.items():
        upright.paste(colour, (left, top, left + 24, top + 16))
    turn = _TURNS[tag]
    exif = Image.Exif()
    exif[0x0112] = tag
    path = tmp_path / f"{tag}.{suffix}"
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(path, exif=exif, quality=100)
    seen = pixels_of(path)
    assert seen.shape == (32, 48, 3)
    for (left, top), colour in corners.items():
        expected = np.asarray(Image.new("RGB", (1, 1), colour))[0, 0].astype(int)
        assert np.abs(seen[top + 8, left + 12] - expected).max() < 8


def _lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(red(), *profiles, outputMode="LAB")
    assert image is not None
    return image


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (red().quantize(), "png"),
        (red().convert("CMYK"), "jpg"),
        (red().convert("CMYK"), "tiff"),
        (red().convert("YCbCr"), "jpg"),
        (_lab(), "tiff"),
        (red().convert("RGBX"), "tiff"),
        (red().convert("RGBA"), "png"),
    ],
    ids=["P", "CMYK-jpg", "CMYK-tiff", "YCbCr", "LAB", "RGBX", "RGBA"],
)
def test_a_mode_of_colours_is_seen_as_rgb(tmp_path: Path, image: Image.Image, suffix: str) -> None:
    path = tmp_path / f"red.{suffix}"
    image.save(path, quality=100)
    assert np.abs(pixels_of(path).astype(int) - RED).max() <= 6


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_grey_mode_has_three_equal_channels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "grey.png"
    red().convert(mode).save(path)
    seen = pixels_of(path)
    assert (seen == seen[..., :1]).all()
    assert seen.max() > 0


def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (10, 10), (*RED, 255))
    hidden.paste((0, 255, 0, 0), (5, 0, 10, 10))
    hidden.save(tmp_path / "alpha.png")
    palette = hidden.convert("RGB").convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((9, 9)))
    whole = Image.new("RGB", (10, 10), RED)
    whole.paste((0, 255, 0), (5, 0, 10, 10))
    whole.save(tmp_path / "colour.png", transparency=(0, 255, 0))
    hidden.convert("LA").save(tmp_path / "grey.png")
    for name in ("alpha", "palette", "colour", "grey"):
        seen = pixels_of(tmp_path / f"{name}.png")
        assert (seen[:, 5:] == 255).all(), name
        assert seen[0, 0, 0] < 210, name


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    red().save(path, save_all=True, append_images=[Image.new("RGB", (12, 10), "blue")])
    assert np.abs(pixels_of(path)[0, 0].astype(int) - RED).max() <= 6


def _truncate(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _bomb(path: Path) -> None:
    Image.new("L", (20000, 20000)).save(path.with_suffix(".png"))
    path.with_suffix(".png").rename(path)


def _no_pixels(path: Path) -> None:
    path.write_bytes(b"P6\n0 0\n255\n")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _bomb,
        _no_pixels,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no image\n"),
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 no image"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.parent / "gone.jpg"),
        os.mkfifo,
        lambda path: None,
    ],
    ids=[
        *("truncated", "bomb", "0x0", "empty", "text", "jpeg_head"),
        *("directory", "dangling", "pipe", "absent"),
    ],
)
@pytest.mark.timeout(60)
def test_what_cannot_be_decoded_is_told_in_one_line(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.jpg"
    damage(path)
    with pytest.raises(DamagedImageError) as caught:
        open_rgb(path)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_image_is_opened_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (10000, 9500)).save(path)
    code = (
        "import sys; from pathlib import Path; from tvm_mnas.training.data.decoding import open_rgb;"
        f"print(open_rgb(Path({str(path)!r})).size)"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "(10000, 9500)\n"
    assert "DecompressionBomb" not in ended.stderr


def test_random_crops_stay_inside_and_keep_to_the_published_ranges() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(500):
        left, top, right, bottom = random_box(100, 80, rng=rng)
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 80
        areas.append((right - left) * (bottom - top) / 8000)
        assert 0.7 < (right - left) / (bottom - top) < 1.43
    assert min(areas) < 0.15
    assert max(areas) > 0.85


def test_a_crop_that_never_fits_becomes_the_central_square() -> None:
    assert random_box(1000, 2, rng=np.random.default_rng(0)) == (499, 0, 501, 2)


def test_evaluation_crops_with_padding() -> None:
    assert central_box(500, 400, input_size=224) == (75, 25, 425, 375)
    assert central_box(1, 1, input_size=224) == (0, 0, 1, 1)
    assert resized(red(), (0, 0, 10, 10), 4).shape == (4, 4, 3)
