"""Tunes the kernels that the records lack: build workers propose, the device measures, the records remember.

Kernels share their schedules by importance (`budget.py`), or each gets as many. One kernel is built while another is
measured; between measurements the measuring core builds too. What a round of a kernel gave is written as the round
ends, so a tuning that is interrupted or killed keeps every round that it finished, and the next one goes on with the
rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.formats import FAILED_S
from tvm_mnas.compiler.tuning.budget import MOST, KernelProgress, next_kernel
from tvm_mnas.compiler.tuning.build_workers import (
    BuildRequest,
    BuildResult,
    BuiltSchedule,
    WarmBuilder,
)
from tvm_mnas.errors import DeviceError, raise_if_host_failed

_POLL_S = 0.01
_ROUND_ATTEMPTS = 2
_NO_DEVICE = "no-device"
_MACHINE_FAILURES = {_NO_DEVICE, "build-error", "worker-died", "worker-hung"}
_LOST_IN_A_ROW = 8
"""So many schedules without a device mean that it is gone, not that the schedules are bad."""


class Runner(Protocol):
    """MetaSchedule's runner interface (`PyRunner`): futures of run times for libraries."""

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        """Return one future for each input; its result has `run_secs`, or `error_msg` with its reason first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningBudget:
    """How many schedules a kernel gets, and how many at a time: a later round learns from those before it.

    `schedules_per_kernel` is what each gets, or with `by_importance` what they get on average: those that matter more
    to the networks, and still improve, get up to `budget.MOST` times as many, and the others fewer.
    """

    schedules_per_kernel: int
    schedules_per_round: int = 16
    by_importance: bool = False

    def __post_init__(self) -> None:
        if self.schedules_per_kernel < 1 or self.schedules_per_round < 1:
            raise ValueError(f"a budget must be of one schedule or more, not {self}")

    @property
    def most(self) -> int:
        """The most schedules that a kernel may get."""
        return self.schedules_per_kernel * (MOST if self.by_importance else 1)


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """What tuning one kernel gave: schedules measured, the best time (None if none ran), failures by reason."""

    name: str
    key: str
    schedules: int
    best_us: float | None
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class TuningReport:
    """The kernels that were tuned, in the order in which they were done, and the wall time in seconds."""

    kernels: tuple[TunedKernel, ...]
    duration_s: float


@dataclass
class _Task:
    """One kernel on its way: the records that it started with, what was measured since, what is noted of that.

    `share` is its equal share of the schedules, `budget` the most that it may get.
    `noted` is how many of `measured` the store has, `noted_failures` those that its history has, `clock` the
    time up to which the history tells.
    """

    kernel: Kernel
    share: int
    budget: int
    records: list[str]
    clock: float | None = None
    attempts: int = 0
    measured: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    noted: int = 0
    noted_failures: Counter[str] = field(default_factory=Counter)
    pending: list[tuple[BuiltSchedule, Any]] = field(default_factory=list)
    asked: int = 0
    lost: int = 0
    ran: bool = False
    rounds: int = 0
    best_us: float = math.inf
    curve_us: list[float] = field(default_factory=list)

    @property
    def progress(self) -> KernelProgress:
        """What decides about the next round."""
        return KernelProgress(
            weight=float(self.kernel.calls),
            rounds=self.rounds,
            curve_us=tuple(self.curve_us),
            # One that never runs gets its equal share at most.
            exhausted=self.left <= 0 or (not self.curve_us and self.spent >= self.share),
        )

    @property
    def spent(self) -> int:
        """How many schedules of the kernel are measured."""
        return len(self.records) + len(self.measured)

    @property
    def left(self) -> int:
        return self.budget - self.spent - self.lost

    @property
    def tells_nothing(self) -> bool:
        """Whether only the machine failed: no linker, a full disk, no device. So the kernel keeps its budget."""
        if self.ran or not set(self.failures) <= _MACHINE_FAILURES:
            return False
        # Records of old and no failure: the kernel has no more schedules.
        return bool(self.failures) or not self.records


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

    A kernel's `calls` are its importance. Schedules follow from `seed`, the kernel and what was measured.
    `on_progress` gets the schedules done and the schedules planned. A kernel of which no schedule ran has no valid
    record afterwards. Whatever ends this early, the rounds that ended before are in `store`, with the schedules spent
    so far as the kernel's budget.

    Raises:
        DeviceError: if the device is gone; the rounds finished until then are recorded.
        RecordsError: if the records cannot be written.
    """
    started = time.monotonic()
    todo = store.missing(kernels, schedules_per_kernel=budget.schedules_per_kernel)
    tasks = [_task(kernel, store, budget) for kernel in todo]
    planned = sum(max(0, budget.schedules_per_kernel - task.spent) for task in tasks)
    tuner = _Tuner(store, target, builder, runner, budget, seed, deque(tasks), planned)
    try:
        while tuner.step():
            on_progress(min(tuner.done, planned), planned)
    finally:
        builder.resume()
    # Kernels with fewer schedules than planned would leave the count short.
    on_progress(planned, planned)
    return TuningReport(tuple(tuner.tuned), time.monotonic() - started)


def _task(kernel: Kernel, store: TuningRecords, budget: TuningBudget) -> _Task:
    task = _Task(kernel, budget.schedules_per_kernel, budget.most, store.records_of(kernel.key))
    best_us = store.best_us(kernel.key)
    if best_us is not None:
        # What it gained in which round is no longer known.
        task.rounds, task.best_us, task.curve_us = 1, best_us, [best_us]
    return task


@dataclass
class _Tuner:
    store: TuningRecords
    target: str
    builder: WarmBuilder
    runner: Runner
    budget: TuningBudget
    seed: int
    queue: deque[_Task]
    pool: int
    """Schedules that are not asked for yet."""
    building: dict[int, _Task] = field(default_factory=dict)
    measuring: list[_Task] = field(default_factory=list)
    tuned: list[TunedKernel] = field(default_factory=list)
    done: int = 0
    lost: int = 0
    loss: str = ""

    def step(self) -> bool:
        """Move everything on that can be; return whether anything is left to do."""
        while self.queue and self.builder.idle:
            task = self._next()
            if task is None:
                break
            # Schedules whose line in the history a `kill -9` prevented, or that were merged, are as good as any.
            if task.left > 0:
                self._submit(task)
            else:
                self._finish(task)
        for result in self.builder.poll(_POLL_S):
            self._take_built(self.building.pop(result.ticket), result)
        for task in list(self.measuring):
            if all(future.done() for _, future in task.pending):
                self.measuring.remove(task)
                self._take_measured(task)
        if not self.measuring:
            self.builder.resume()
        elif not self.building:
            time.sleep(_POLL_S)
        return bool(self.queue or self.building or self.measuring)

    def _next(self) -> _Task | None:
        """Return the kernel whose turn it is; None where that depends on what is on its way."""
        if not self.budget.by_importance:
            return self.queue.popleft()
        chosen = next_kernel([task.progress for task in self.queue]) if self.pool > 0 else None
        if chosen is None:
            if self.building or self.measuring:
                return None
            while self.queue:
                self._finish(self.queue.popleft())
            return None
        task = self.queue[chosen]
        del self.queue[chosen]
        return task

    def _submit(self, task: _Task) -> None:
        if task.clock is None:
            task.clock = time.monotonic()
        task.asked = min(task.left, self.budget.schedules_per_round)
        if self.budget.by_importance:
            task.asked = min(task.asked, self.pool)
        self.pool -= task.asked
        known = (*task.records, *task.measured)
        ticket = self.builder.submit(
            BuildRequest(
                workload=task.kernel.workload,
                target=self.target,
                records=known,
                schedules=task.asked,
                seed=_round_seed(self.seed, task.kernel.key, len(known)),
            )
        )
        self.building[ticket] = task

    def _take_built(self, task: _Task, result: BuildResult) -> None:
        # Fewer than asked for: the kernel has no more, or the round failed as a whole.
        self.pool += task.asked - len(result.built)
        for failure in (result.error, *(built.failure for built in result.built)):
            # Noted as the kernel's or the schedule's, it would never be tried again.
            raise_if_host_failed(failure or "")
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
        if good:
            self.builder.pause()
        futures = self.runner.run([_runner_input(built) for built in good]) if good else []
        task.pending = list(zip(good, futures, strict=True))
        if len(result.built) < task.asked:
            task.budget = task.spent + len(good)
        self.measuring.append(task)

    def _take_measured(self, task: _Task) -> None:
        for built, future in task.pending:
            outcome = future.result()
            built.path.unlink(missing_ok=True)
            error = None if outcome.error_msg is None else str(outcome.error_msg)
            runs = None if error is not None else [float(run) for run in outcome.run_secs]
            if error is None or not error.startswith(_NO_DEVICE):
                self.lost = 0
            else:
                self.lost += 1
                self.loss = error
                # Says nothing of the schedule: it is not recorded, and the kernel is tuned again some day.
                task.failures[_NO_DEVICE] += 1
                task.lost += 1
                self.done += 1
                continue
            self._record(task, built, runs, error)
        task.pending = []
        task.rounds += 1
        if task.best_us < math.inf:
            task.curve_us.append(task.best_us)
        gone = self.lost >= _LOST_IN_A_ROW
        if task.left > 0 or gone:
            self._note(task, budget=task.spent)
            self.queue.appendleft(task)
        else:
            self._finish(task)
        if gone:
            raise DeviceError(
                f"tuning needs a device that answers, and {self.lost} schedules in a row found none: "
                f"{self.loss}; `tvm-mnas device list` shows what is registered"
            )

    def _record(
        self, task: _Task, built: BuiltSchedule, runs: list[float] | None, error: str | None
    ) -> None:
        record = json.loads(built.record)
        record[1] = runs if runs is not None else [FAILED_S]
        task.measured.append(json.dumps(record))
        self.done += 1
        if runs is not None:
            task.ran = True
            task.best_us = min(task.best_us, 1e6 * fmean(runs))
        if error is not None:
            task.failures[error.partition(":")[0]] += 1

    def _finish(self, task: _Task) -> None:
        # A kernel that has no more schedules, or should get no more, counts as tuned to what was asked for.
        budget = task.spent if task.lost else max(task.spent, self.budget.schedules_per_kernel)
        self._note(task, budget=budget, ends=True)
        self.tuned.append(
            TunedKernel(
                name=task.kernel.name,
                key=task.kernel.key,
                schedules=len(task.measured),
                best_us=self.store.best_us(task.kernel.key),
                failures=dict(task.failures),
            )
        )

    def _note(self, task: _Task, *, budget: int, ends: bool = False) -> None:
        """Write down what came to `task` since the last time, the kernel tuned to `budget` schedules with it."""
        if task.tells_nothing and not ends:
            # A later round may tell the machine's failures from the kernel's.
            return
        now = time.monotonic()
        self.store.add(
            task.kernel,
            [] if task.tells_nothing else task.measured[task.noted :],
            budget=0 if task.tells_nothing else budget,
            failures=task.failures - task.noted_failures,
            duration_s=0.0 if task.clock is None else now - task.clock,
        )
        task.noted, task.noted_failures, task.clock = len(task.measured), task.failures.copy(), now


def _runner_input(built: BuiltSchedule) -> Any:
    meta_schedule = load_meta_schedule()
    arguments = [
        meta_schedule.arg_info.ArgInfo.from_json(info) for info in json.loads(built.record)[3]
    ]
    return meta_schedule.runner.RunnerInput(str(built.path), "cpu", arguments)


def _round_seed(seed: int, key: str, known: int) -> int:
    digest = hashlib.sha256(f"{seed}:{key}:{known}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
