"""What is compiled for: TVM's target, and the model of its core by which schedules are chosen."""

from __future__ import annotations

import json
from typing import Any

from tvm_mnas.compiler.core.dots import dots_of
from tvm_mnas.cores.model import STATED, CoreModel

_HALF_ARITHMETIC = frozenset({"fullfp16", "avx512fp16"})
"""What LLVM calls arithmetic on whole vectors of float16; without it each step converts to float32 and back."""
_DATAPATHS = {"znver1": 4, "znver4": 8}
"""Of the cores, by LLVM's name, that work on half a register at once (AMD's guides for families 17h and 19h)."""


def load_target(target: str) -> Any:
    """Return the `tvm.target.Target` of its JSON text.

    Raises:
        ValueError: if TVM does not take it.
    """
    import tvm.target

    table = target_table(target)
    told = {key: value for key, value in table.items() if key != STATED}
    return tvm.target.Target(told if table else target)


def target_table(target: str) -> dict[str, Any]:
    """Return the table that the text of a target is, an empty one where it is a word, as `llvm`."""
    table: dict[str, Any] = json.loads(target) if target.lstrip().startswith("{") else {}
    return table


def core_count(target: str) -> int:
    """Return the number of cores that code for `target` (its JSON text) runs on."""
    return int(load_target(target).attrs.get("num-cores", 1))


def core_model(target: str, *, dtype: str = "float32") -> CoreModel:
    """Return the model of the core of `target` (its JSON text), its lanes those that sums in `dtype` have.

    It follows from the name and the features by which LLVM knows the core, but for what the text itself states.
    """
    known = load_target(target)
    features = _features(known)
    core = _float32_core(known, features).stated(target_table(target).get(STATED, {}))
    halves = dtype == "float16" and not _HALF_ARITHMETIC.isdisjoint(features)
    return core.doubled() if halves else core


def core_dots(target: str) -> dict[int, str]:
    """Return the intrinsics of the core of `target` (its JSON text) for pairs of bfloat16, by the sums of a vector."""
    return dots_of(_features(load_target(target)))


def _features(target: Any) -> set[str]:
    """Return LLVM's words for what the core of `target` has."""
    from tvm.target import codegen

    return {str(name) for name in codegen.llvm_get_cpu_features(target)}


def _float32_core(target: Any, features: set[str]) -> CoreModel:
    # llvm_get_vector_width says 512 for every x86.
    name = str(target.attrs.get("mcpu", ""))
    if "avx512f" in features:
        return CoreModel(lanes=16, registers=32, datapath=_DATAPATHS.get(name))
    if "avx" in features:
        return CoreModel(lanes=8, registers=16, datapath=_DATAPATHS.get(name))
    triple = str(target.attrs.get("mtriple", ""))
    if triple.startswith("aarch64"):
        return CoreModel(lanes=4, registers=32, multiplies_lanes=True)
    return CoreModel(lanes=4, registers=16)
