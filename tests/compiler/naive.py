"""What the compiler's fast ways are compared with: TVM's own, for a whole network at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tvm import relax

from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.records.base import TuningRecords


def database_of(kernels: Sequence[Kernel], store: TuningRecords) -> Any:
    """Return a MetaSchedule database with the best record of each of `kernels` that has one."""
    database = load_meta_schedule().database
    memory = database.MemoryDatabase(module_equality=EQUALITY)
    for kernel in kernels:
        best = store.best_record(kernel.key)
        if best is None:
            continue
        code = database.Workload.from_json(json.loads(kernel.workload)).mod
        workload = memory.commit_workload(code)
        memory.commit_tuning_record(database.TuningRecord.from_json(json.loads(best), workload))
    return memory


def scheduled(lowered: LoweredNetwork, store: TuningRecords) -> Any:
    """Return the module of `lowered` with its kernels scheduled by their records."""
    with load_target(lowered.target), database_of(lowered.kernels, store):
        return relax.transform.MetaScheduleApplyDatabase()(lowered.module)


def tasks_of(module: Any, target: str) -> list[tuple[str, int]]:
    """Return the structural hash of each kernel of `module`, as MetaSchedule writes it, and how often it is called."""
    meta_schedule = load_meta_schedule()
    tasks = meta_schedule.relax_integration.extract_tasks(
        module, load_target(target), {}, module_equality=EQUALITY
    )
    return [
        (
            str(meta_schedule.database.Workload(task.dispatched[0]).as_json()[0]),
            int(task.weight),
        )
        for task in tasks
    ]
