"""How many images a second one core prepares, as bytes: decoding JPEGs, from a decoded copy, and torch's DataLoader.

    python benchmarks/input_pipeline.py [--images 400] [--input 160]

Images are of ImageNet's usual size, 500 x 375, made of noise over coarse colours; the peer is a plain Dataset with
Pillow's transforms (open, random-resized crop, flip, to a tensor of bytes) in torch's DataLoader. All take turns in one
run. Normalization, which is the training device's, is a line of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tvm_mnas.training.data.decoding import random_box
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import to_input
from tvm_mnas.training.data.stored import IMAGENET_NORMALIZATION
from tvm_mnas.workflows.data import make_cache

BATCH = 64
ROUNDS = 5


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """Files opened, cropped and flipped one by one, as tutorials do."""

    def __init__(self, files: tuple[str, ...], size: int) -> None:
        self.files = files
        self.size = size
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        box = random_box(*image.size, rng=self.rng)
        image = image.crop(box).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if self.rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), 0


def write_images(root: Path, count: int) -> None:
    """Write `count` training images of two classes, and a few for the test."""
    rng = np.random.default_rng(0)
    for part, images in (("train", count), ("val", 4)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for index in range(images // 2):
                coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                smooth = np.asarray(Image.fromarray(coarse).resize((500, 375)), np.int16)
                noisy = smooth + rng.integers(-20, 20, smooth.shape)
                picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                picture.save(root / part / name / f"{index}.jpg", quality=90)


def main() -> None:
    """Print images a second of each way, its median of some rounds, and its ratio to decoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--input", type=int, default=160)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_images(root / "images", arguments.images)
        spec = f"imagefolder:{root / 'images'}"
        make_cache(
            spec,
            root / "copy",
            size=arguments.input,
            workers=0,
            seed=0,
            max_bad_images=0,
            on_progress=lambda done, total: None,
        )
        options = LoadOptions(input_size=arguments.input, workers=0)
        decoding = load_data(spec, options).train
        cached = load_data(f"cache:{root / 'copy'}", options).train
        plain = PlainImages(decoding.names(), arguments.input)  # type: ignore[attr-defined]
        steps = len(decoding) // BATCH
        held, _ = next(cached.eval_batches(batch_size=BATCH))

        def batches(split: object) -> Iterator[object]:
            return split.train_batches(batch_size=BATCH, steps=steps, seed=0)  # type: ignore[attr-defined, no-any-return]

        ways: dict[str, Callable[[], Iterator[object]]] = {
            "decoding": lambda: batches(decoding),
            "cached": lambda: batches(cached),
            "DataLoader with Pillow's transforms": lambda: iter(
                DataLoader(plain, batch_size=BATCH, shuffle=True, drop_last=True)
            ),
            "normalizing bytes": lambda: (
                to_input(held, IMAGENET_NORMALIZATION) for _ in range(steps)
            ),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, start in ways.items():
                began = time.perf_counter()
                for _batch in start():
                    pass
                rates[way].append(steps * BATCH / (time.perf_counter() - began))
    base = statistics.median(rates["decoding"])
    print(f"images a second on one core, inputs of {arguments.input}, {ROUNDS} rounds in turn")
    for way, found in rates.items():
        median = statistics.median(found)
        print(f"{way:<38}{median:>9.0f}{median / base:>8.2f}")


if __name__ == "__main__":
    main()
