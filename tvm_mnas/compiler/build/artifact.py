"""From a lowered network and its kernels' records to one shared library that any TVM runtime can run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tvm
from tvm import relax

from tvm_mnas.compiler.build.coverage import tuned_share, untuned_kernels
from tvm_mnas.compiler.build.extern_calls import call_by_symbol
from tvm_mnas.compiler.build.packing import fold_packing
from tvm_mnas.compiler.build.scheduling import apply_records
from tvm_mnas.compiler.build.storages import cpu_pipeline
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.linking import Linker, find_linker
from tvm_mnas.compiler.core.objects import ObjectCache
from tvm_mnas.compiler.core.reasons import reason_of
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.errors import BuildError, TvmMnasError, raise_if_foreign
from tvm_mnas.files import require_room

_NONE_UNTUNED: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CompiledArtifact:
    """A shared library with the function `main`: images of `input_shape` (N,C,H,W) and `input_dtype` -> outputs.

    `kernels` counts distinct ones, `tuned_kernels` those compiled from a record, `schedules` the schedules that were
    measured for all, `tuned_share` the part (0..1) of the run time that is spent in tuned kernels; it computes in
    `precision`.
    """

    path: Path
    kernels: int
    tuned_kernels: int
    schedules: int
    tuned_share: float
    size_bytes: int
    input_shape: tuple[int, int, int, int]
    input_dtype: str
    precision: Precision = FLOAT32


def compile_network(
    lowered: LoweredNetwork,
    store: TuningRecords,
    path: Path,
    *,
    linker: Linker | None = None,
    objects: Path | None = None,
    untuned_us: Mapping[str, float] = _NONE_UNTUNED,
    max_untuned_share: float = 0.0,
) -> CompiledArtifact:
    """Compile `lowered` into the shared library `path`, every kernel from its best record in `store`.

    `objects` is a directory that keeps compiled kernels from one network to the next; without it all are compiled.
    With `max_untuned_share` above 0 a kernel without a record may be compiled as TVM builds it by itself, if
    `untuned_us` has its measured time that way (microseconds by key) and no more than this part (0..1) of the run time
    is in such kernels.

    Raises:
        UntunedKernelError: naming a kernel without a record that may not stay so: untuned it would be many times
            slower, and the latency would say nothing of the network.
        BuildError: if TVM or the linker fails.
    """
    share = tuned_share(
        lowered.kernels, store, untuned_us=untuned_us, max_untuned_share=max_untuned_share
    )
    untuned = untuned_kernels(lowered.kernels, store)
    chosen = linker if linker is not None else find_linker(lowered.target)
    try:
        _build(lowered, store, path, chosen, objects)
    except TvmMnasError:
        raise
    except Exception as error:
        raise_if_foreign(error)
        # TVM raises what it likes; to the caller this network did not compile.
        raise BuildError(f"TVM cannot compile this network: {reason_of(error)}") from error
    return CompiledArtifact(
        path=path,
        kernels=len(lowered.kernels),
        tuned_kernels=len(lowered.kernels) - len(untuned),
        schedules=sum(store.schedules(kernel.key) for kernel in lowered.kernels),
        tuned_share=share,
        size_bytes=path.stat().st_size,
        input_shape=lowered.input_shape,
        input_dtype=lowered.input_dtype,
        precision=lowered.precision,
    )


MOST_RUN_UNTUNED_FLOPS = 10e9
"""What runs in seconds as TVM builds it by itself, at a giga a second: ResNet-50 does, SSD300 takes a minute."""


def compile_rehearsal(
    lowered: LoweredNetwork, store: TuningRecords, path: Path
) -> CompiledArtifact:
    """Compile `lowered` whether or not its kernels have records: right, and too slow to be timed.

    Raises:
        BuildError: if TVM or the linker fails, as it would after tuning.
    """
    untuned_us = {kernel.key: 1.0 for kernel in lowered.kernels}
    return compile_network(lowered, store, path, untuned_us=untuned_us, max_untuned_share=1.0)


def check_build(lowered: LoweredNetwork, store: TuningRecords) -> None:
    """Find out whether `lowered` compiles, before its kernels are tuned. Raises what `compile_rehearsal` does."""
    with tempfile.TemporaryDirectory(prefix="tvm-mnas-rehearsal-") as name:
        compile_rehearsal(lowered, store, Path(name) / "net.so")


def _build(
    lowered: LoweredNetwork,
    store: TuningRecords,
    path: Path,
    linker: Linker,
    objects: Path | None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as name:
        directory = Path(name)
        kept = objects if objects is not None else directory / "objects"
        target = load_target(lowered.target)
        module = apply_records(lowered.module, store, lowered.target)
        with target, tvm.transform.PassContext(opt_level=3):
            module = relax.transform.SplitLayoutRewritePreproc()(module)
            module = fold_packing(module, kept)
            cache = ObjectCache(kept, lowered.target)
            compiled = _compile_kernels(module, cache)
            calls = call_by_symbol(module, compiled)
            executable = tvm.compile(calls, target=target, relax_pipeline=cpu_pipeline(target))
        part = directory / "net.so"
        _link(executable, cache, compiled, linker, part)
        part.replace(path)


def _compile_kernels(module: Any, cache: ObjectCache) -> dict[str, str]:
    """Have the kernels of `module` in `cache`; return their symbols by name."""
    return {
        variable.name_hint: cache.kernel(function)
        for variable, function in module.functions_items()
        if not isinstance(function, relax.Function)
    }


def _link(
    executable: Any, cache: ObjectCache, compiled: dict[str, str], linker: Linker, path: Path
) -> None:
    kernels = [cache.path(symbol) for symbol in sorted(set(compiled.values()))]

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        linker.link([*(Path(name) for name in objects), *kernels], Path(output))

    # export_library decides by this attribute what it asks the function for.
    link.output_format = "so"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        executable.export_library(str(path), fcompile=link, workspace_dir=directory)
