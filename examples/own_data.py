"""Data of one's own: `tvm-mnas search --data examples/own_data.py:STRIPES`, or run this file."""

import numpy as np

from tvm_mnas import DataSplits, ImageSet, LoadOptions, memory_splits, run_search


def draw(count: int, seed: int) -> ImageSet:
    """Return grey 32x32 images of stripes in ten directions, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    rows, columns = np.mgrid[0:32, 0:32]
    angles = labels[:, None, None] * np.pi / 10
    waves = np.sin(0.7 * (rows * np.cos(angles) + columns * np.sin(angles)))
    pixels = 127 + 60 * waves + 30 * rng.standard_normal((count, 32, 32))
    return ImageSet(pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64), classes=10)


class Stripes:
    """The images are drawn here; yours may come from a file, a database or a library."""

    def check(self, location: str) -> None:
        """Nothing can be missing."""

    def class_names(self, location: str) -> tuple[str, ...]:
        return tuple(f"{18 * label} degrees" for label in range(10))

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        train, test = draw(2000, seed=1), draw(500, seed=2)
        return memory_splits(train, test, options, name="stripes")


STRIPES = Stripes()
QUICK = {"trials": 2, "batch": 2, "train_steps": 20, "final_steps": 20, "schedules_per_kernel": 2}

if __name__ == "__main__":
    data = f"{__file__}:STRIPES"
    result = run_search(data=data, **QUICK)
    print(list(result.manifest.data.class_names[:3]), result.manifest.test.top1)
