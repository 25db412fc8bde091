"""The one way in which this room loads MetaSchedule, TVM's auto-scheduler.

A search for schedules parses the tensor intrinsics of every accelerator that TVM knows, 20 to 36 seconds in each
process; a CPU needs two of those modules and half a second.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

_INTRINSICS = "tvm.s_tir.tensor_intrin"
_CPU_INTRINSICS = ("x86", "arm_cpu")

EQUALITY = "structural"
"""How kernels are told apart. Fused variants of one kernel have records of their own: a record then holds the
very time that was measured."""


@lru_cache(maxsize=1)
def load_meta_schedule() -> Any:
    """Return the module `tvm.s_tir.meta_schedule`."""
    return importlib.import_module("tvm.s_tir.meta_schedule")


def keep_to_cpu_intrinsics() -> None:
    """Keep this process from importing the intrinsics of accelerators; for a worker process of our own.

    Whoever searches for schedules imports them all. A process that is somebody else's never does so on our account,
    and keeps the package as TVM has it.
    """
    import tvm.s_tir

    if _INTRINSICS not in sys.modules:
        # A package without a body: MetaSchedule imports it by name for its side effects, which are the cost.
        package = ModuleType(_INTRINSICS)
        package.__path__ = [str(Path(tvm.s_tir.__file__).parent / "tensor_intrin")]
        sys.modules[_INTRINSICS] = package
        tvm.s_tir.tensor_intrin = package
        for name in _CPU_INTRINSICS:
            importlib.import_module(f"{_INTRINSICS}.{name}")


def key_of(structural_hash: str) -> str:
    """Return the key for a structural hash as MetaSchedule writes it: sixteen hexadecimal digits."""
    return f"{int(structural_hash) & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def normalized(function: Any) -> Any:
    """Return a module with `function` alone, as MetaSchedule knows it whatever it was called."""
    import tvm

    return tvm.get_global_func("tvm.s_tir.meta_schedule.normalize_mod")(function)
