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
    """Return the one output for `images` (N,C,H,W), one image at a time."""
    (outputs,) = run_all_here(path, images)
    return outputs


def run_all_here(path: Path, images: np.ndarray, *, batch_size: int = 1) -> tuple[np.ndarray, ...]:
    """Return every output for `images`, `batch_size` of them at a time."""
    machine = VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    parts = []
    for at in range(0, len(images), batch_size):
        outputs = machine["main"](tvm.runtime.tensor(images[at : at + batch_size]))
        single = isinstance(outputs, tvm.runtime.Tensor)
        parts.append([output.numpy() for output in ([outputs] if single else outputs)])
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
