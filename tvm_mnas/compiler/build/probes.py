"""Small kernels that show what a core can do at most, and the kernels of a network without their schedules.

What a probe takes on the device bounds what any kernel there can take: see `evaluation/roofline.py`. The reference
kernel shows whether the device is still the same: see `devices/farm/reference.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from tvm_mnas.compiler.core.dots import TERMS, dot_function
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
from tvm_mnas.compiler.core.reasons import reason_of
from tvm_mnas.compiler.core.target import core_dots, load_target
from tvm_mnas.errors import BuildError, raise_if_foreign
from tvm_mnas.files import require_room

Arguments = tuple[tuple[str, tuple[int, ...]], ...]
"""Type and shape of each argument of a kernel, outputs last."""

_LANES = {"float32": (4, 8, 16), "float16": (8, 16, 32)}
_CHAINS = (8, 12, 24)
_STEPS = 20_000
_READ_CHAINS = 8
_READ_LANES = 16
_KIB = 1024
_SIZES_BYTES = tuple(size * _KIB for size in (16, 64, 256, 1024, 4096, 16384, 65536))

# Sums in registers, each waiting only for itself: as many as it takes to keep every unit busy.
_MULTIPLY_ADD = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(source: T.Buffer(({extent},), "{dtype}"), result: T.Buffer(({extent},), "{dtype}")):
        T.func_attr({{"tirx.noalias": True}})
        sums = T.alloc_buffer(({extent},), "{dtype}", scope="local")
        for chain in T.unroll({chains}):
            for lane in T.vectorized({lanes}):
                sums[chain * {lanes} + lane] = source[chain * {lanes} + lane]
        for step in T.serial({steps}):
            for chain in T.unroll({chains}):
                for lane in T.vectorized({lanes}):
                    sums[chain * {lanes} + lane] = sums[chain * {lanes} + lane] * T.{dtype}(
                        0.5
                    ) + T.{dtype}(1)
        for chain in T.unroll({chains}):
            for lane in T.vectorized({lanes}):
                result[chain * {lanes} + lane] = sums[chain * {lanes} + lane]
"""

# Of pairs of bfloat16, each 0.5 times 0.5.
_DOT = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(source: T.Buffer(({extent},), "float32"), result: T.Buffer(({extent},), "float32")):
        T.func_attr({{"tirx.noalias": True}})
        sums = T.alloc_buffer(({extent},), "float32", scope="local")
        with T.attr(T.int32(0), "pragma_import_llvm", {code!r}):
            for chain in T.unroll({chains}):
                for lane in T.vectorized({lanes}):
                    sums[chain * {lanes} + lane] = source[chain * {lanes} + lane]
            for step in T.serial({steps}):
                for chain in T.unroll({chains}):
                    sums[T.ramp(chain * {lanes}, 1, {lanes})] = T.call_pure_extern(
                        "float32x{lanes}",
                        {symbol!r},
                        sums[T.ramp(chain * {lanes}, 1, {lanes})],
                        T.broadcast(T.uint32(0x3F003F00), {lanes}),
                        T.broadcast(T.uint32(0x3F003F00), {lanes}),
                    )
            for chain in T.unroll({chains}):
                for lane in T.vectorized({lanes}):
                    result[chain * {lanes} + lane] = sums[chain * {lanes} + lane]
"""

_COPY = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(source: T.Buffer(({extent},), "float32"), result: T.Buffer(({extent},), "float32")):
        T.func_attr({{"tirx.noalias": True}})
        for step in T.serial({extent} // {lanes}):
            for lane in T.vectorized({lanes}):
                result[step * {lanes} + lane] = source[step * {lanes} + lane] + T.float32(1)
"""

_READ = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(source: T.Buffer(({extent},), "float32"), result: T.Buffer(({width},), "float32")):
        T.func_attr({{"tirx.noalias": True}})
        sums = T.alloc_buffer(({width},), "float32", scope="local")
        for chain in T.unroll({chains}):
            for lane in T.vectorized({lanes}):
                sums[chain * {lanes} + lane] = T.float32(0)
        for step in T.serial({extent} // {width}):
            for chain in T.unroll({chains}):
                for lane in T.vectorized({lanes}):
                    sums[chain * {lanes} + lane] = (
                        sums[chain * {lanes} + lane]
                        + source[step * {width} + chain * {lanes} + lane]
                    )
        for chain in T.unroll({chains}):
            for lane in T.vectorized({lanes}):
                result[chain * {lanes} + lane] = sums[chain * {lanes} + lane]
"""

# A product of matrices, as most of a network is: it depends on the clock, and on caches that others may use.
_REFERENCE = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(
        left: T.Buffer(({rows}, {depth}), "float32"),
        right: T.Buffer(({depth}, {columns}), "float32"),
        result: T.Buffer(({rows}, {columns}), "float32"),
    ):
        T.func_attr({{"tirx.noalias": True}})
        for row in T.serial({rows}):
            for block in T.serial({columns} // {lanes}):
                for lane in T.vectorized({lanes}):
                    result[row, block * {lanes} + lane] = T.float32(0)
            for step in T.serial({depth}):
                for block in T.serial({columns} // {lanes}):
                    for lane in T.vectorized({lanes}):
                        result[row, block * {lanes} + lane] = (
                            result[row, block * {lanes} + lane]
                            + left[row, step] * right[step, block * {lanes} + lane]
                        )
"""
_REFERENCE_ROWS, _REFERENCE_DEPTH, _REFERENCE_COLUMNS = 32, 256, 256


@dataclass(frozen=True, slots=True)
class Probe:
    """A kernel in the shared library `path`; what one run of it computes, and the memory it goes through.

    `flops` is 0 for a probe of memory, `size_bytes` 0 for one of arithmetic.
    """

    path: Path
    arguments: Arguments
    flops: int
    size_bytes: int


def build_probes(
    target: str, directory: Path, *, linker: Linker, dtype: str = "float32"
) -> list[Probe]:
    """Build every probe for `target` into `directory`: vector widths and sums in flight, sizes of memory.

    Which width suits the device shows when they are timed: only the best counts. Where a network's products are of
    another `dtype` than float32, there are probes of both: some of its kernels compute in float32 still.

    Raises:
        BuildError: if one does not build.
    """
    return [
        _build_probe(source, arguments, flops, size_bytes, target, directory / f"{name}.so", linker)
        for name, source, arguments, flops, size_bytes in _sources(dtype, target)
    ]


def build_reference(target: str, path: Path, *, linker: Linker) -> Arguments:
    """Build the reference kernel for `target`, a product of two matrices; return what it takes.

    It has no schedule to be tuned, so that it stays the same whatever the records learn.

    Raises:
        BuildError: if it does not build.
    """
    rows, depth, columns = _REFERENCE_ROWS, _REFERENCE_DEPTH, _REFERENCE_COLUMNS
    source = _REFERENCE.format(rows=rows, depth=depth, columns=columns, lanes=_READ_LANES)
    _build(tvm.script.from_source(source), target, path, linker)
    shapes = ((rows, depth), (depth, columns), (rows, columns))
    return tuple(("float32", shape) for shape in shapes)


def build_untuned(kernel: Kernel, target: str, path: Path, *, linker: Linker) -> Arguments:
    """Build `kernel` as TVM does by itself, its loops as they were written; return what it takes.

    Raises:
        BuildError: if it does not build.
    """
    _build(_module_of(kernel), target, path, linker)
    return _arguments_of(kernel)


def _sources(dtype: str, target: str) -> Iterator[tuple[str, str, Arguments, int, int]]:
    for summed in dict.fromkeys(("float32", dtype)):
        for lanes in _LANES.get(summed, ()):
            for chains in _CHAINS:
                extent = lanes * chains
                source = _MULTIPLY_ADD.format(
                    extent=extent, lanes=lanes, chains=chains, steps=_STEPS, dtype=summed
                )
                arguments: Arguments = ((summed, (extent,)), (summed, (extent,)))
                yield f"sums-{lanes}x{chains}-{summed}", source, arguments, 2 * _STEPS * extent, 0
    if dtype == "bfloat16":
        yield from _dots(target)
    width = _READ_CHAINS * _READ_LANES
    for size in _SIZES_BYTES:
        extent = size // 8
        source = _COPY.format(extent=extent, lanes=_READ_LANES)
        yield f"copy-{size}", source, _vectors(extent, extent), 0, size
        extent = size // 4
        source = _READ.format(extent=extent, width=width, chains=_READ_CHAINS, lanes=_READ_LANES)
        yield f"read-{size}", source, _vectors(extent, width), 0, size


def _dots(target: str) -> Iterator[tuple[str, str, Arguments, int, int]]:
    for lanes, intrinsic in core_dots(target).items():
        symbol, code = dot_function(intrinsic)
        for chains in _CHAINS:
            extent = lanes * chains
            source = _DOT.format(
                extent=extent, lanes=lanes, chains=chains, steps=_STEPS, symbol=symbol, code=code
            )
            flops = 2 * TERMS * _STEPS * extent
            yield f"dots-{lanes}x{chains}", source, _vectors(extent, extent), flops, 0


def _vectors(*extents: int) -> Arguments:
    return tuple(("float32", (extent,)) for extent in extents)


def _build_probe(
    source: str,
    arguments: Arguments,
    flops: int,
    size: int,
    target: str,
    path: Path,
    linker: Linker,
) -> Probe:
    _build(tvm.script.from_source(source), target, path, linker)
    return Probe(path, arguments, flops, size)


def _arguments_of(kernel: Kernel) -> Arguments:
    infos = load_meta_schedule().arg_info.ArgInfo.from_entry_func(
        _module_of(kernel), remove_preproc=True
    )
    described = [info.as_json() for info in infos]
    return tuple((str(dtype), tuple(int(n) for n in shape)) for _, dtype, shape in described)


def _module_of(kernel: Kernel) -> Any:
    database = load_meta_schedule().database
    return database.Workload.from_json(json.loads(kernel.workload)).mod


def _build(module: Any, target: str, path: Path, linker: Linker) -> None:
    objects = path.with_suffix(".o")
    require_room(path.parent)
    try:
        tvm.compile(module, target=load_target(target)).mod.write_to_file(str(objects))
    except Exception as error:
        raise_if_foreign(error)
        # TVM raises what it likes; to the caller this kernel did not build.
        raise BuildError(f"TVM cannot build {path.stem}: {reason_of(error)}") from error
    linker.link([objects], path)
    objects.unlink()
