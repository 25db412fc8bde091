"""Classify images with an exported network, by TVM's runtime alone: no torch, no search, no compiler.

python examples/classify.py runs/NAME/best                 # the test images that the manifest's accuracy is of
python examples/classify.py runs/NAME/best shoe.png ...    # images of your own
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

# TVM imports torch where it finds it; nothing here needs it.
sys.modules["torch"] = None  # type: ignore[assignment]
# Only the runtime: a phone has no compiler either.
os.environ["TVM_USE_RUNTIME_LIB"] = "1"

import tvm

from tvm_mnas.training.images import Normalization, network_input, read_test_images


class ExportedNetwork:
    """The `net.so` of an export directory, ready to run on this machine's CPU."""

    def __init__(self, directory: Path) -> None:
        self.manifest = json.loads((directory / "manifest.json").read_text())
        data = self.manifest["data"]
        self.classes: list[str] = data["class_names"]
        self.input_size: int = self.manifest["input"]["shape"][2]
        self.normalization = Normalization(tuple(data["mean"]), tuple(data["std"]))
        library = tvm.runtime.load_module(str(directory / "net.so"))
        # The runtime's virtual machine, on device 0 of kind CPU (1) with its pooled allocator (2).
        machine = library["vm_load_executable"]()
        machine["vm_initialization"](1, 0, 2)
        self._run = machine["main"]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits (N,classes) for uint8 images (N,H,W) or (N,H,W,3)."""
        images = network_input(pixels, self.input_size, self.normalization)
        rows = [
            self._run(tvm.runtime.tensor(images[index : index + 1])).numpy()
            for index in range(len(images))
        ]
        return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="an export directory")
    parser.add_argument("images", type=Path, nargs="*", help="images; without any, the test split")
    options = parser.parse_args()
    network = ExportedNetwork(options.directory)
    if options.images:
        for path in options.images:
            mode = "L" if network.manifest["data"]["grey"] else "RGB"
            pixels = np.asarray(Image.open(path).convert(mode))
            label = int(network.logits(pixels[np.newaxis]).argmax())
            print(f"{path}: {network.classes[label]}")
        return
    test = read_test_images(network.manifest["data"]["spec"])
    correct = int((network.logits(test.pixels).argmax(axis=1) == test.labels).sum())
    stated = network.manifest["accuracy"]["test"]["top1"]
    print(f"accuracy {correct / len(test):.4f} on {len(test)} test images")
    print(f"manifest {stated:.4f}")


if __name__ == "__main__":
    main()
