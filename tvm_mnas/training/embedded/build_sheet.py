"""Rebuild `fashion_mnist.png` and `fashion_mnist.json` from the four Fashion-MNIST IDX files.

    apt-get install dataset-fashion-mnist
    python -m tvm_mnas.training.embedded.build_sheet /usr/share/datasets/fashion-mnist OUTPUT

The subset is stratified and seeded, so that the same pixels come out everywhere; `pixels_sha256` in
the JSON file says so (the PNG's own bytes depend on the zlib at hand). Images are ordered by split,
then by class, so the labels follow from the counts and cannot go out of step with the pixels.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tvm_mnas.training.data.images import ImageSet, Pixels, read_idx

SEED = 0
TRAIN_PER_CLASS = 1000
TEST_PER_CLASS = 400
COLUMNS = 100
CLASS_NAMES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def pick(images: ImageSet, per_class: int, rng: np.random.Generator) -> Pixels:
    """Return `per_class` images of each class, uint8 (N,H,W), ordered by class."""
    chosen = []
    for label in range(images.classes):
        members = rng.permutation(np.flatnonzero(images.labels == label))
        chosen.append(np.sort(members[:per_class]))
    return images.take(np.concatenate(chosen)).pixels


def build(source: Path, output: Path) -> None:
    """Write the sheet and its description into `output` from the IDX files in `source`."""
    rng = np.random.default_rng(SEED)
    train, test = read_idx(source)
    pixels = np.concatenate([pick(train, TRAIN_PER_CLASS, rng), pick(test, TEST_PER_CLASS, rng)])
    count, height, width = pixels.shape
    rows = count // COLUMNS
    sheet = pixels.reshape(rows, COLUMNS, height, width).transpose(0, 2, 1, 3)
    output.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.reshape(rows * height, COLUMNS * width)).save(
        output / "fashion_mnist.png", optimize=True
    )
    description = {
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "licence": "MIT, see LICENSE.fashion-mnist",
        "seed": SEED,
        "image_height": height,
        "image_width": width,
        "columns": COLUMNS,
        "train_per_class": TRAIN_PER_CLASS,
        "test_per_class": TEST_PER_CLASS,
        "class_names": CLASS_NAMES,
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
    }
    (output / "fashion_mnist.json").write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} IDX_DIRECTORY OUTPUT_DIRECTORY")
    build(Path(sys.argv[1]), Path(sys.argv[2]))
