"""Kernels as their best records say: a record is applied to its kernel once in a process, not for every candidate."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import tvm
from tvm import relax
from tvm_ffi import StructuralKey

from tvm_mnas.compiler.core.code import REMEMBERED, code_of, named_like
from tvm_mnas.compiler.core.dots import know_dots_of
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule, normalized
from tvm_mnas.compiler.core.reasons import reason_of
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.kernels import key_of_function
from tvm_mnas.compiler.lowering.suppression import is_scheduled
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.errors import BuildError, raise_if_foreign


def apply_records(module: Any, store: TuningRecords, target: str) -> Any:
    """Return a lowered network's `module` with its kernels scheduled by the best records that `store` has of them.

    `target` is the JSON text of the target that both are for. A kernel without a record stays as it is.

    Raises:
        BuildError: if a record does not fit its kernel.
    """
    return tvm.IRModule(
        {
            variable: function
            if isinstance(function, relax.Function) or is_scheduled(function)
            else _by_record(variable.name_hint, function, store, target)
            for variable, function in module.functions_items()
        },
        attrs=module.attrs,
    )


def _by_record(name: str, function: Any, store: TuningRecords, target: str) -> Any:
    record = store.best_record(key_of_function(function))
    if record is None:
        return function
    try:
        scheduled = _scheduled(code_of(function), record, target)
    except Exception as error:
        raise_if_foreign(error)
        # TVM raises what it likes where a step of the record finds nothing to work on.
        raise BuildError(
            f"cannot schedule {name}: its record is of other code ({reason_of(error)}); delete the tuning records "
            f"and tune again"
        ) from error
    return named_like(scheduled, function)


@lru_cache(maxsize=REMEMBERED)
def _scheduled(code: StructuralKey, record: str, target: str) -> Any:
    """Return the function of this code after the `record` (MetaSchedule's JSON), as TVM's own pass applies it."""
    meta_schedule = load_meta_schedule()
    database = meta_schedule.database.MemoryDatabase(module_equality=EQUALITY)
    workload = database.commit_workload(normalized(code.key))
    know_dots_of(record)
    database.commit_tuning_record(
        meta_schedule.database.TuningRecord.from_json(json.loads(record), workload)
    )
    with load_target(target), database, tvm.transform.PassContext(opt_level=3):
        applied = relax.transform.MetaScheduleApplyDatabase()(tvm.IRModule({"kernel": code.key}))
    return applied["kernel"]
