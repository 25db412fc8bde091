"""Draw what the net.so of a detector finds, by TVM's runtime alone: `detect.py runs/NAME/best IMAGE ...`."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tvm_mnas.processes import load_runtime_only
from tvm_mnas.training.data.images import Normalization, network_input

load_runtime_only()  # a phone has neither a compiler nor torch
import tvm


def load(directory: Path):
    """Return the classes, and a function: image -> rows of left, top, right, bottom in pixels, score, class."""
    manifest = json.loads((directory / "manifest.json").read_text())
    size, data = manifest["input"]["shape"][2], manifest["data"]
    machine = tvm.runtime.load_module(str(directory / "net.so"))["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)  # device 0 of kind CPU (1), its pooled allocator (2)

    def detections(image):
        small = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        images = network_input(small[None], size, Normalization(data["mean"], data["std"]))
        rows = machine["main"](tvm.runtime.tensor(images)).numpy()[0]
        return rows[rows[:, 5] >= 0] * [*image.size, *image.size, 1, 1]  # no class: nothing found

    return data["class_names"], detections


if __name__ == "__main__":
    names, detections = load(Path(sys.argv[1]))
    for file in map(Path, sys.argv[2:]):
        image = Image.open(file).convert("RGB")
        for *box, score, label in (row for row in detections(image) if row[4] >= 0.3):
            ImageDraw.Draw(image).rectangle(box, outline="red", width=2)
            print(f"{file}: {names[int(label)]} {score:.2f} at", *(f"{side:.0f}" for side in box))
        image.save(file.with_name(f"{file.stem}-found.png"))
