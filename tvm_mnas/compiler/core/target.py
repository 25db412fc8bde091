"""What is compiled for: TVM's target, and the vector registers that it has."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

_HALF_ARITHMETIC = frozenset({"fullfp16", "avx512fp16"})
"""What LLVM calls arithmetic on whole vectors of float16; without it each step converts to float32 and back."""


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """The vector registers of a target: `lanes` in each, of float32 unless another type was asked for, and how many.

    `datapath` is how many lanes an instruction works on at once, all of them unless stated: where it is half of them a
    whole register takes twice as long as half of one, and only saves an instruction.

    `multiplies_lanes` says whether a multiply-add takes one lane of a register for all of another, as on ARM, where a
    value for all lanes costs a load of its own otherwise. Elsewhere it comes from memory within the multiply-add, or by
    a load that broadcasts.
    """

    lanes: int
    registers: int
    multiplies_lanes: bool = False
    datapath: int = 0

    def __post_init__(self) -> None:
        if not self.datapath:
            object.__setattr__(self, "datapath", self.lanes)


_DATAPATHS = {"znver1": 4, "znver4": 8}
"""Of the cores, by LLVM's name, that work on half a register at once (AMD's guides for families 17h and 19h)."""


def load_target(target: str) -> Any:
    """Return the `tvm.target.Target` of its JSON text.

    Raises:
        ValueError: if TVM does not take it.
    """
    import tvm.target

    return tvm.target.Target(json.loads(target) if target.lstrip().startswith("{") else target)


def vector_unit(target: Any, *, dtype: str = "float32") -> VectorUnit:
    """Return the vector registers of the LLVM target `target`, their lanes those that sums in `dtype` have."""
    unit = _float32_unit(target)
    halves = dtype == "float16" and not _HALF_ARITHMETIC.isdisjoint(_features(target))
    return replace(unit, lanes=2 * unit.lanes, datapath=2 * unit.datapath) if halves else unit


def _features(target: Any) -> set[str]:
    from tvm.target import codegen

    return {str(name) for name in codegen.llvm_get_cpu_features(target)}


def _float32_unit(target: Any) -> VectorUnit:
    # llvm_get_vector_width says 512 for every x86.
    core = str(target.attrs.get("mcpu", ""))
    features = _features(target)
    if "avx512f" in features:
        return VectorUnit(lanes=16, registers=32, datapath=_DATAPATHS.get(core, 16))
    if "avx" in features:
        return VectorUnit(lanes=8, registers=16, datapath=_DATAPATHS.get(core, 8))
    triple = str(target.attrs.get("mtriple", ""))
    if triple.startswith("aarch64"):
        return VectorUnit(lanes=4, registers=32, multiplies_lanes=True)
    return VectorUnit(lanes=4, registers=16)
