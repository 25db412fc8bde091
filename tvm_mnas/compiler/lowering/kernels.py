"""The kernels of a lowered network: which there are, how often each is called, and what each is known by.

What TVM says of a kernel is asked for once in a process.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tvm import relax
from tvm_ffi import StructuralKey

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of
from tvm_mnas.compiler.core.code import REMEMBERED, code_of
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.metaschedule import key_of, load_meta_schedule, normalized
from tvm_mnas.compiler.lowering.naming import describe_kernel
from tvm_mnas.compiler.lowering.suppression import is_scheduled


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a function is as a kernel; its arguments are MetaSchedule's `ArgInfo`."""

    key: str
    flops: int
    moved_bytes: int
    workload: str
    arguments: tuple[Any, ...]


def kernels_of(module: Any) -> tuple[Kernel, ...]:
    """Return the distinct kernels that the Relax functions of `module` call, by key.

    One that is scheduled as it is written is left out: there is nothing to tune.
    """
    calls: Counter[str] = Counter()
    names: dict[str, str] = {}
    facts: dict[str, _Facts] = {}
    for name in _called(module):
        function = module[name]
        if is_scheduled(function):
            continue
        found = _facts(code_of(function))
        calls[found.key] += 1
        names.setdefault(found.key, name)
        facts[found.key] = found
    return tuple(
        Kernel(
            name=describe_kernel(names[key], facts[key].arguments),
            key=key,
            calls=calls[key],
            flops=facts[key].flops,
            moved_bytes=facts[key].moved_bytes,
            workload=facts[key].workload,
        )
        for key in sorted(calls)
    )


def key_of_function(function: Any) -> str:
    """Return the `Kernel.key` of a function in a lowered network's module, not yet scheduled."""
    return _facts(code_of(function)).key


def _called(module: Any) -> list[str]:
    """Return the names of the kernels that are called, one as often as it is."""
    names: list[str] = []

    def visit(node: Any) -> None:
        if operator_of(node) == KERNEL_CALL:
            names.append(str(node.args[0].name_hint))

    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return names


@lru_cache(maxsize=REMEMBERED)
def _facts(code: StructuralKey) -> _Facts:
    from tvm.s_tir.analysis import estimate_tir_flops

    meta_schedule = load_meta_schedule()
    module = normalized(code.key)
    entry = [str(part) for part in meta_schedule.database.Workload(module).as_json()]
    arguments = tuple(meta_schedule.arg_info.ArgInfo.from_entry_func(module))
    return _Facts(
        key=key_of(entry[0]),
        flops=int(estimate_tir_flops(module)),
        moved_bytes=sum(_size_bytes(argument) for argument in arguments),
        workload=json.dumps(entry),
        arguments=arguments,
    )


def _size_bytes(argument: Any) -> int:
    """Return the size of an argument (`ArgInfo`) of a kernel."""
    _, dtype, shape = argument.as_json()
    return np.dtype(str(dtype)).itemsize * math.prod(int(extent) for extent in shape)
