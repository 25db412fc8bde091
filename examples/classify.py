"""Run a net.so by TVM's runtime alone: `classify.py runs/NAME/best [IMAGE ...]`, or its test images."""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tvm_mnas.processes import block_torch
from tvm_mnas.training.images import Normalization, network_input, read_test_images

os.environ["TVM_USE_RUNTIME_LIB"] = "1"  # a phone has no compiler either; read by the import
block_torch()
import tvm


def load(directory: Path):
    """Return the manifest, and a function: uint8 images (N,H,W[,3]) -> logits (N,classes)."""
    manifest = json.loads((directory / "manifest.json").read_text())
    normalization = Normalization(manifest["data"]["mean"], manifest["data"]["std"])
    library = tvm.runtime.load_module(str(directory / "net.so"))
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)  # device 0 of kind CPU (1), its pooled allocator (2)

    def logits(pixels):
        images = network_input(pixels, manifest["input"]["shape"][2], normalization)
        rows = [machine["main"](tvm.runtime.tensor(image[np.newaxis])).numpy() for image in images]
        return np.concatenate(rows)

    return manifest, logits


if __name__ == "__main__":
    manifest, logits = load(Path(sys.argv[1]))
    for file in sys.argv[2:]:
        pixels = np.asarray(Image.open(file).convert("L" if manifest["data"]["grey"] else "RGB"))
        label = int(logits(pixels[np.newaxis]).argmax())
        print(f"{file}: {manifest['data']['class_names'][label]}")
    if not sys.argv[2:]:
        test, stated = read_test_images(manifest["data"]["spec"]), manifest["accuracy"]["test"]
        share = float((logits(test.pixels).argmax(axis=1) == test.labels).mean())
        print(f"accuracy {share:.4f} on {len(test)} test images")
        print(f"manifest {stated['top1']:.4f}")
