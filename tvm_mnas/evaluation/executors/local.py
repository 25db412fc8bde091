"""Runs trainings side by side in processes of their own, one per core or accelerator.

A process that dies takes nothing with it but its own task; the processes end with ours, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from tvm_mnas.errors import TrainingError, TvmMnasError
from tvm_mnas.evaluation.executors.protocol import (
    ATTEMPTS,
    ExecutorRequest,
    TaskOutcome,
    parallel_trainings,
)
from tvm_mnas.processes import ask_to_be_killed
from tvm_mnas.training.accelerators import WORKER_VARIABLE, find_devices

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(eq=False)
class _Local:
    """A task of a `LocalExecutor`: where it runs, and how often its process died."""

    function: Callable[..., Any]
    task: Any
    on_end: Callable[[TaskOutcome[Any]], None]
    progress: Any
    worker: int | None = None
    deaths: int = 0
    done_steps: int = 0

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return self.done_steps if self.worker is None else int(self.progress[self.worker])


class LocalExecutor:
    """Up to `jobs` worker processes that stay warm from one task to the next; a context manager.

    Each is a pool of its own, so that it is known which task one died under. That task is tried a second time.
    """

    def __init__(self, *, jobs: int, devices: tuple[str, ...] = ("cpu",)) -> None:
        if jobs < 1:
            raise ValueError(f"an executor has one worker process or more, not {jobs}")
        self.devices, self.slots = devices, jobs
        self._context = multiprocessing.get_context("spawn")
        # Without a lock: each worker writes its own slot, and a killed writer must not block the others.
        self._progress: Any = self._context.Array(ctypes.c_int64, jobs, lock=False)
        self._pools: list[ProcessPoolExecutor | None] = [None] * jobs
        self._idle = list(range(jobs))
        self._queue: deque[_Local] = deque()
        self._running: dict[Future[Any], _Local] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.clear()
        self._running.clear()
        for worker in range(len(self._pools)):
            self._discard(worker)

    def submit(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        task: _Task,
        on_end: Callable[[TaskOutcome[_Result]], None],
    ) -> _Local:
        """Have `function(task, report)` called in the next free process; see `Executor`."""
        submitted = _Local(function, task, on_end, self._progress)
        self._queue.append(submitted)
        self._start()
        return submitted

    def poll(self, timeout_s: float) -> None:
        """Wait for a task to end, for `timeout_s` at most; see `Executor`.

        Errors of tvm-mnas become outcomes, and so does the second death of a process under one task.
        """
        done, _ = wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)
        ended: list[tuple[_Local, TaskOutcome[Any]]] = []
        for future in done:
            submitted = self._running.pop(future)
            try:
                outcome = self._outcome(future, submitted)
            finally:
                self._release(submitted)
            if outcome is not None:
                ended.append((submitted, outcome))
        self._start()
        for submitted, outcome in ended:
            submitted.on_end(outcome)

    def _outcome(self, future: Future[Any], submitted: _Local) -> TaskOutcome[Any] | None:
        try:
            return TaskOutcome(future.result(), None)
        except TvmMnasError as error:
            return TaskOutcome(None, error)
        except BrokenProcessPool:
            assert submitted.worker is not None
            self._discard(submitted.worker)
            submitted.deaths += 1
            if submitted.deaths == ATTEMPTS:
                return TaskOutcome(None, TrainingError("a training process died twice"))
            self._queue.append(submitted)
            return None

    def _release(self, submitted: _Local) -> None:
        assert submitted.worker is not None
        submitted.done_steps = submitted.steps
        self._idle.append(submitted.worker)
        submitted.worker = None

    def _start(self) -> None:
        """Give the processes that are free what waits."""
        while self._queue and self._idle:
            # The lowest number first: with few tasks the same processes stay warm.
            self._idle.sort()
            worker = self._idle.pop(0)
            submitted = self._queue.popleft()
            submitted.worker = worker
            self._progress[worker] = 0
            try:
                future = self._open(worker).submit(_run_task, submitted.function, submitted.task)
            except BrokenProcessPool:
                # It died while it was idle, which is no fault of the task.
                self._discard(worker)
                future = self._open(worker).submit(_run_task, submitted.function, submitted.task)
            self._running[future] = submitted

    def _open(self, worker: int) -> ProcessPoolExecutor:
        pool = self._pools[worker]
        if pool is None:
            pool = self._pools[worker] = ProcessPoolExecutor(
                1,
                mp_context=self._context,
                initializer=_start_worker,
                initargs=(self._progress, os.getpid(), worker),
            )
        return pool

    def _discard(self, worker: int) -> None:
        pool, self._pools[worker] = self._pools[worker], None
        if pool is None:
            return
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


def open_local(request: ExecutorRequest) -> LocalExecutor:
    """Return what `--executor local` names.

    Raises:
        ConfigError: if there is no such device to train on.
    """
    devices = find_devices(request.train_device)
    return LocalExecutor(jobs=parallel_trainings(request.jobs, devices), devices=devices)


class _Worker:
    """The state of one worker process."""

    progress: Any = None
    number = 0


def _start_worker(progress: Any, parent: int, number: int) -> None:
    # An interrupt is the parent's to handle: it ends the workers when it has saved what it needs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ask_to_be_killed()
    if os.getppid() != parent:
        os._exit(1)
    # Read by torch when the first task imports it: one training a core, each on one thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ[WORKER_VARIABLE] = str(number)
    _Worker.progress, _Worker.number = progress, number


def _run_task(function: Callable[[_Task, Callable[[int], None]], _Result], task: _Task) -> _Result:
    def report(steps: int) -> None:
        _Worker.progress[_Worker.number] = steps

    return function(task, report)
