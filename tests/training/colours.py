"""An image folder of two classes that are easy to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_colours(root: Path) -> None:
    """Write 10 training and 3 test images of each of two classes below `root`: one class is red, one blue."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 3)):
        for channel, name in ((0, "red"), (2, "blue")):
            directory = root / part / name
            directory.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 60, (40 + index, 60, 3), dtype=np.uint8)
                pixels[..., channel] += 180
                suffix = "jpg" if index % 2 else "png"
                Image.fromarray(pixels).save(directory / f"{index}.{suffix}")
