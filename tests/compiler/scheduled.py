"""A kernel by itself, as its schedules see it: its module, random arguments, and its output."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvm_mnas.compiler.core.dots import STORED
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.bfloat import rounded


def module_of(kernel: Kernel) -> Any:
    """Return the code of `kernel`, not scheduled."""
    return load_meta_schedule().database.Workload.from_json(json.loads(kernel.workload)).mod


def run_kernel(
    module: Any, arrays: list[np.ndarray[Any, Any]], target: str
) -> np.ndarray[Any, Any]:
    """Return the last of `arrays` after `module` was run on all."""
    library = tvm.compile(module, target=load_target(target))
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    library["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


def arguments_of(module: Any) -> list[np.ndarray[Any, Any]]:
    """Return random arguments of `module`; an index is one that no input has."""
    infos = load_meta_schedule().arg_info.ArgInfo.from_entry_func(module)
    rng = np.random.default_rng(0)
    arrays = []
    for info in infos:
        _, dtype, shape = info.as_json()
        extents = [int(extent) for extent in shape]
        if str(dtype).startswith("int"):
            arrays.append(rng.integers(-1000, 1000, extents).astype(str(dtype)))
        elif str(dtype) == STORED:
            arrays.append(rounded(rng.standard_normal(extents, dtype=np.float32)))
        else:
            arrays.append(rng.standard_normal(extents).astype(str(dtype)))
    return arrays


def replayed(schedule: Any, module: Any, target: str) -> Any:
    """Return the module that a database makes of `module` with the record of `schedule`."""
    database = load_meta_schedule().database
    memory = database.MemoryDatabase(module_equality=EQUALITY)
    workload = memory.commit_workload(module)
    record = database.TuningRecord(schedule.trace, workload, [1e-6], load_target(target), None)
    memory.commit_tuning_record(record)
    return memory.query_schedule(module, load_target(target), "main").mod


def assert_each_computes_the_same(module: Any, schedules: list[Any], target: str) -> None:
    """Fail unless each of `schedules` of `module` computes what it does, their packing of weights in them."""
    arrays = arguments_of(module)
    expected = run_kernel(module, [array.copy() for array in arrays], target)
    for schedule in schedules:
        found = run_kernel(schedule.mod, [array.copy() for array in arrays], target)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def assert_its_record_gives_the_same_code(schedule: Any, module: Any, target: str) -> None:
    """Fail unless the record of `schedule` of `module` gives its code again, and that compiles for `target`."""
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)
    again = packed(replayed(schedule, module, target))
    assert tvm_ffi.structural_equal(again, packed(schedule.mod))
    tvm.compile(again, target=load_target(target))
