"""Tunes the kernels that the records lack: build workers propose, the device measures, the records remember.

One kernel is built while another is measured. What a kernel's tuning gave is written at once, so an interrupted
tuning keeps all that it finished.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tvm_mnas.compiler.formats import FAILED_S
from tvm_mnas.compiler.lookup import TuningRecords
from tvm_mnas.compiler.lowering import Kernel
from tvm_mnas.compiler.metaschedule import load_meta_schedule
from tvm_mnas.compiler.workers import Built, Round, RoundResult, WarmBuilder
from tvm_mnas.errors import DeviceError

_POLL_S = 0.01
_ROUND_ATTEMPTS = 2
_NO_DEVICE = "no-device"
_MACHINE_FAILURES = {_NO_DEVICE, "build-error", "worker-died", "worker-hung"}
_LOST_IN_A_ROW = 8
"""So many trials without a device mean that it is gone, not that the schedules are bad."""


class Runner(Protocol):
    """MetaSchedule's runner interface (`PyRunner`): futures of run times for libraries."""

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        """Return one future for each input; its result has `run_secs`, or `error_msg` with its reason first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningBudget:
    """How many schedules a kernel gets, and how many at a time: a later round learns from those before it."""

    trials_per_kernel: int
    trials_per_round: int = 16

    def __post_init__(self) -> None:
        if self.trials_per_kernel < 1 or self.trials_per_round < 1:
            raise ValueError(f"a budget is of one trial or more, not {self}")


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """What tuning one kernel gave: schedules measured, the best time (None if none ran), failures by reason."""

    name: str
    key: str
    trials: int
    best_us: float | None
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class TuningReport:
    """The kernels that were tuned, in the order in which they were done, and the wall time in seconds."""

    kernels: tuple[TunedKernel, ...]
    duration_s: float


@dataclass
class _Task:
    """One kernel on its way."""

    kernel: Kernel
    budget: int
    records: list[str]
    started: float = 0.0
    attempts: int = 0
    measured: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    pending: list[tuple[Built, Any]] = field(default_factory=list)
    asked: int = 0
    lost: int = 0

    @property
    def ran(self) -> bool:
        """Whether any schedule ran."""
        return any(json.loads(record)[1] != [FAILED_S] for record in self.measured)

    @property
    def left(self) -> int:
        return self.budget - len(self.records) - len(self.measured) - self.lost


def tune_kernels(
    kernels: Sequence[Kernel],
    store: TuningRecords,
    *,
    target: str,
    builder: WarmBuilder,
    runner: Runner,
    budget: TuningBudget,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TuningReport:
    """Tune those of `kernels` on which `store` has spent less than `budget`; return what was done.

    Schedules follow from `seed`, the kernel and what was measured. `on_progress` gets the schedules done and the
    schedules planned. A kernel of which no schedule ran has no valid record afterwards.

    Raises:
        DeviceError: if the device is gone; the kernels finished until then are recorded.
        RecordsError: if the records cannot be written.
    """
    started = time.monotonic()
    todo = store.missing(kernels, trials_per_kernel=budget.trials_per_kernel)
    tasks = [
        _Task(kernel, budget.trials_per_kernel, store.records_of(kernel.key)) for kernel in todo
    ]
    tuner = _Tuner(store, target, builder, runner, budget, seed, deque(tasks))
    planned = sum(task.left for task in tasks)
    while tuner.step():
        on_progress(min(tuner.done, planned), planned)
    # Kernels with fewer schedules than planned would leave the count short.
    on_progress(planned, planned)
    return TuningReport(tuple(tuner.tuned), time.monotonic() - started)


@dataclass
class _Tuner:
    store: TuningRecords
    target: str
    builder: WarmBuilder
    runner: Runner
    budget: TuningBudget
    seed: int
    queue: deque[_Task]
    building: dict[int, _Task] = field(default_factory=dict)
    measuring: list[_Task] = field(default_factory=list)
    tuned: list[TunedKernel] = field(default_factory=list)
    done: int = 0
    lost: int = 0

    def step(self) -> bool:
        """Move everything on that can be; return whether anything is left to do."""
        while self.queue and self.builder.idle:
            self._submit(self.queue.popleft())
        for result in self.builder.poll(_POLL_S):
            self._take_built(self.building.pop(result.ticket), result)
        for task in list(self.measuring):
            if all(future.done() for _, future in task.pending):
                self.measuring.remove(task)
                self._take_measured(task)
        if not self.building and self.measuring:
            time.sleep(_POLL_S)
        return bool(self.queue or self.building or self.measuring)

    def _submit(self, task: _Task) -> None:
        task.started = task.started or time.monotonic()
        task.asked = min(task.left, self.budget.trials_per_round)
        known = (*task.records, *task.measured)
        ticket = self.builder.submit(
            Round(
                workload=task.kernel.workload,
                target=self.target,
                records=known,
                trials=task.asked,
                seed=_round_seed(self.seed, task.kernel.key, len(known)),
            )
        )
        self.building[ticket] = task

    def _take_built(self, task: _Task, result: RoundResult) -> None:
        if result.error is not None:
            task.failures[result.error.partition(":")[0]] += 1
            task.attempts += 1
            if task.attempts < _ROUND_ATTEMPTS:
                self.queue.appendleft(task)
            else:
                self._finish(task)
            return
        good = [built for built in result.built if built.failure is None]
        for built in result.built:
            if built.failure is not None:
                self._record(task, built, None, built.failure)
        futures = self.runner.run([_runner_input(built) for built in good]) if good else []
        task.pending = list(zip(good, futures, strict=True))
        # Fewer than asked for: the kernel has no more schedules.
        if len(result.built) < task.asked:
            task.budget = len(task.records) + len(task.measured) + len(good)
        self.measuring.append(task)

    def _take_measured(self, task: _Task) -> None:
        for built, future in task.pending:
            outcome = future.result()
            built.path.unlink(missing_ok=True)
            error = None if outcome.error_msg is None else str(outcome.error_msg)
            runs = None if error is not None else [float(run) for run in outcome.run_secs]
            self._watch_device(error)
            if error is not None and error.startswith(_NO_DEVICE):
                # Says nothing of the schedule: it is not recorded, and the kernel is tuned again some day.
                task.failures[_NO_DEVICE] += 1
                task.lost += 1
                self.done += 1
                continue
            self._record(task, built, runs, error)
        task.pending = []
        if task.left > 0:
            self.queue.appendleft(task)
        else:
            self._finish(task)

    def _record(
        self, task: _Task, built: Built, runs: list[float] | None, error: str | None
    ) -> None:
        record = json.loads(built.record)
        record[1] = runs if runs is not None else [FAILED_S]
        task.measured.append(json.dumps(record))
        self.done += 1
        if error is not None:
            task.failures[error.partition(":")[0]] += 1

    def _watch_device(self, error: str | None) -> None:
        self.lost = self.lost + 1 if error is not None and error.startswith(_NO_DEVICE) else 0
        if self.lost >= _LOST_IN_A_ROW:
            raise DeviceError(
                f"tuning needs a device that answers, and {self.lost} schedules in a row found none: "
                f"{error}; `tvm-mnas devices` shows what is registered"
            )

    def _finish(self, task: _Task) -> None:
        spent = self.budget.trials_per_kernel
        records = task.measured
        if not task.ran and set(task.failures) <= _MACHINE_FAILURES:
            # No linker, a full disk, no device: the machine's failures, so the kernel keeps its budget.
            spent, records = 0, []
        elif task.lost:
            spent = len(task.records) + len(task.measured)
        self.store.add(
            task.kernel,
            records,
            budget=spent,
            failures=task.failures,
            duration_s=time.monotonic() - task.started,
        )
        self.tuned.append(
            TunedKernel(
                name=task.kernel.name,
                key=task.kernel.key,
                trials=len(task.measured),
                best_us=self.store.best_us(task.kernel.key),
                failures=dict(task.failures),
            )
        )


def _runner_input(built: Built) -> Any:
    meta_schedule = load_meta_schedule()
    arguments = [
        meta_schedule.arg_info.ArgInfo.from_json(info) for info in json.loads(built.record)[3]
    ]
    return meta_schedule.runner.RunnerInput(str(built.path), "cpu", arguments)


def _round_seed(seed: int, key: str, known: int) -> int:
    digest = hashlib.sha256(f"{seed}:{key}:{known}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
