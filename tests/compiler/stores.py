"""Stores of tuning records made by hand: kernels that TVM never sees, and schedules with any run time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.store import RecordStore

TARGET = '{"kind": "llvm", "num-cores": 1}'


def make_kernel(number: int = 1) -> Kernel:
    """Return a kernel whose workload no test asks TVM to read."""
    workload = json.dumps([str(number), "code"])
    return Kernel(f"kernel{number}", f"{number:016x}", 1, 10, 4, workload)


def make_record(*seconds: float, trace: str = "trace") -> str:
    """Return a record of a schedule that took these run times."""
    return json.dumps([[[trace]], list(seconds), {"kind": "llvm"}, []])


def add(store: TuningRecords, kernel: Kernel, records: Sequence[str], *, budget: int = 4) -> None:
    store.add(kernel, records, budget=budget, failures={}, duration_s=1.0)


def reopened(store: RecordStore) -> RecordStore:
    return RecordStore.open(store.directory, target=store.target)


def contents(directory: Path) -> dict[str, bytes]:
    """Return what lies below `directory`, less the locks, which hold nothing."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
