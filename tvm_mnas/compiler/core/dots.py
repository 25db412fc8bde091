"""Instructions that add two products of bfloat16 to each of a vector's sums in float32, for schedules to ask for.

TVM's own bfloat16 comes to products in float32, whatever a core has. So a number in bfloat16 is an unsigned integer of
16 bits to TVM, which a shift widens to float32, and a pair of them is one of 32 bits. LLVM's functions for such pairs
take types that TVM has no name for: they are called from a few lines of LLVM's own language.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

STORED = "uint16"
"""What TVM takes a number in bfloat16 for."""
TERMS = 2
"""How many products are added to a sum at once."""

_NAME = "tvm_mnas.dot"
_FUNCTIONS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "avx512bf16": {
            16: "llvm.x86.avx512bf16.dpbf16ps.512",
            8: "llvm.x86.avx512bf16.dpbf16ps.256",
            4: "llvm.x86.avx512bf16.dpbf16ps.128",
        },
        "bf16": {4: "llvm.aarch64.neon.bfdot.v4f32.v8bf16"},
    }
)
"""LLVM's functions, by its word for what a core must have, and by the sums of a vector."""

# The inputs come last, since of that operand an instruction takes one number in memory for all (x86).
_DOT_CODE = """
define <{lanes} x float> @{name}(<{lanes} x float> %sums, <{lanes} x i32> %inputs, <{lanes} x i32> %weights) {{
  %a = bitcast <{lanes} x i32> %weights to <{numbers} x bfloat>
  %b = bitcast <{lanes} x i32> %inputs to <{numbers} x bfloat>
  %c = call <{lanes} x float> @{function}(<{lanes} x float> %sums, <{numbers} x bfloat> %a, <{numbers} x bfloat> %b)
  ret <{lanes} x float> %c
}}
declare <{lanes} x float> @{function}(<{lanes} x float>, <{numbers} x bfloat>, <{numbers} x bfloat>)
"""
_DOT = """
@T.prim_func(s_tir=True)
def main(
    inputs: T.Buffer((2,), "uint16", offset_factor=1),
    weights: T.Buffer(({lanes}, 2), "uint16", offset_factor=1),
    sums: T.Buffer(({lanes},), "float32", offset_factor=1),
):
    with T.sblock("root"):
        T.reads(sums[0:{lanes}], inputs[0:2], weights[0:{lanes}, 0:2])
        T.writes(sums[0:{lanes}])
{body}
"""
_DOT_MEANS = """
        for term, lane in T.grid(2, {lanes}):
            with T.sblock("dot"):
                l, t = T.axis.remap("SR", [lane, term])
                sums[l] = sums[l] + (
                    T.reinterpret("float32", T.shift_left(T.Cast("uint32", inputs[t]), T.uint32(16)))
                    * T.reinterpret("float32", T.shift_left(T.Cast("uint32", weights[l, t]), T.uint32(16)))
                )
"""
_DOT_IS = """
        with T.attr(T.int32(0), "pragma_import_llvm", {code!r}):
            sums[T.ramp(T.int32(0), 1, {lanes})] = T.call_pure_extern(
                "float32x{lanes}",
                {name!r},
                sums[T.ramp(T.int32(0), 1, {lanes})],
                T.broadcast(T.reinterpret("uint32", inputs.vload([0], "uint16x2")), {lanes}),
                T.reinterpret("uint32x{lanes}", weights.vload([0, 0], "uint16x{numbers}")),
            )
"""


def dots_of(features: set[str]) -> dict[int, str]:
    """Return the intrinsics of a core with these `features`, LLVM's words, by the sums of a vector; most have none."""
    found = (feature for feature in _FUNCTIONS if feature in features)
    return {lanes: _name(feature, lanes) for feature in found for lanes in _FUNCTIONS[feature]}


def widened(number: Any) -> Any:
    """Return the expression of a `number` in bfloat16 as a float32, as the intrinsics know it."""
    from tvm import tirx

    return tirx.reinterpret("float32", number.astype("uint32") << tirx.const(16, "uint32"))


def know_dots_of(record: str) -> None:
    """Have TVM know the intrinsics in this process if `record`, MetaSchedule's JSON, names one."""
    if f"{_NAME}." in record:
        know_dots()


@lru_cache(maxsize=1)
def know_dots() -> None:
    """Have TVM know the intrinsics in this process."""
    import tvm.script
    from tvm.s_tir import TensorIntrin

    for feature, functions in _FUNCTIONS.items():
        for lanes in functions:
            symbol, code = dot_function(_name(feature, lanes))
            bodies = (
                _DOT_MEANS.format(lanes=lanes),
                _DOT_IS.format(lanes=lanes, numbers=TERMS * lanes, name=symbol, code=code),
            )
            scripts = (_DOT.format(lanes=lanes, body=body) for body in bodies)
            TensorIntrin.register(
                _name(feature, lanes), *(tvm.script.from_source(script) for script in scripts)
            )


def dot_function(intrinsic: str) -> tuple[str, str]:
    """Return the name of the function behind an `intrinsic` of `dots_of`, and what it is in LLVM's language.

    Of sums, pairs of inputs and pairs of weights, which are integers of 32 bits, it makes sums.
    """
    feature, lanes = intrinsic.removeprefix(f"{_NAME}.").split(".")
    symbol = intrinsic.replace(".", "_")
    return symbol, _DOT_CODE.format(
        lanes=lanes,
        numbers=TERMS * int(lanes),
        name=symbol,
        function=_FUNCTIONS[feature][int(lanes)],
    )


def _name(feature: str, lanes: int) -> str:
    return f"{_NAME}.{feature}.{lanes}"
