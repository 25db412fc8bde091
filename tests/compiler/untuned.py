"""Networks compiled without a record, and run in this process: right, and slow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

from tvm_mnas.compiler.build.artifact import compile_network
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.records.store import RecordStore


def build_untuned(lowered: LoweredNetwork, directory: Path) -> Path:
    """Compile without any record; what kernels would take plays no part when all are let in."""
    path = directory / "net.so"
    compile_network(
        lowered,
        RecordStore.open(directory / "records", target=lowered.target),
        path,
        untuned_us={kernel.key: 1.0 for kernel in lowered.kernels},
        max_untuned_share=1.0,
    )
    return path


def run_here(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the outputs for `images` (N,C,H,W), one image at a time."""
    machine = VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    outputs = [machine["main"](tvm.runtime.tensor(image[None])).numpy() for image in images]
    return np.concatenate(outputs)
