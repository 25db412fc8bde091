"""Run a net.so by TVM's runtime alone: `classify.py runs/NAME/best [IMAGE ...]`, or its test images."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tvm_mnas.processes import load_runtime_only
from tvm_mnas.training.data.images import Normalization, network_input, read_test_images

load_runtime_only()  # a phone has neither a compiler nor torch
import tvm


def load(directory: Path):
    """Return the manifest, and a function: uint8 images (N,H,W[,3]) -> logits (N,classes)."""
    manifest = json.loads((directory / "manifest.json").read_text())
    size, data = manifest["input"]["shape"][2], manifest["data"]
    machine = tvm.runtime.load_module(str(directory / "net.so"))["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)  # device 0 of kind CPU (1), its pooled allocator (2)

    def logits(pixels):
        images = network_input(pixels, size, Normalization(data["mean"], data["std"]))
        return np.vstack([machine["main"](tvm.runtime.tensor(x[None])).numpy() for x in images])

    return manifest, logits


if __name__ == "__main__":
    manifest, logits = load(Path(sys.argv[1]))
    for file in sys.argv[2:]:
        image = Image.open(file).convert("L" if manifest["data"]["grey"] else "RGB")
        label = logits(np.asarray(image)[None]).argmax()
        print(f"{file}: {manifest['data']['class_names'][label]}")
    if not sys.argv[2:]:
        test, stated = read_test_images(manifest["data"]["spec"]), manifest["accuracy"]["test"]
        share = (logits(test.pixels).argmax(axis=1) == test.labels).mean()
        print(f"accuracy {share:.4f} on {len(test)} test images, manifest {stated['top1']:.4f}")
