"""Runs trainings side by side in processes of their own, one per core or accelerator.

A process that dies takes nothing with it but its own task; the processes end with ours, however that ends.

An executor of one's own, for a cluster say, has three methods: `submit` begins a task or puts it in a queue, `poll`
waits for something to end, and a context manager ends everything. All of them are called from one thread.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

from tvm_mnas.devices.core.cores import usable_processes
from tvm_mnas.errors import TrainingError, TvmMnasError
from tvm_mnas.processes import ask_to_be_killed
from tvm_mnas.training.accelerators import WORKER_VARIABLE

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_POLL_S = 0.25
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class TaskOutcome(Generic[_Result]):
    """What became of one task: a result or an error."""

    result: _Result | None
    error: TvmMnasError | None

    def get(self) -> _Result:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        # None is a result too, of a function that returns it.
        return cast(_Result, self.result)


class Submitted(Protocol):
    """A task that an executor was given."""

    @property
    def steps(self) -> int:
        """How many steps of it are done, by its last report."""
        ...


class Executor(Protocol):
    """Runs trainings somewhere; a context manager. The factory that `--executor` names is called with `jobs=N`."""

    def __enter__(self) -> Executor:
        """Return the executor, ready for tasks."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End everything that the executor started."""
        ...

    def submit(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        task: _Task,
        on_end: Callable[[TaskOutcome[_Result]], None],
    ) -> Submitted:
        """Have `function(task, report)` called, as soon as there is room; return at once.

        `function` is importable by name, and calls `report(steps)` with the steps that it has done. `on_end` gets the
        outcome, within a `poll`.
        """
        ...

    def poll(self, timeout_s: float) -> None:
        """Wait for a task to end, for `timeout_s` at most, and call `on_end` of each that has ended.

        Raises what a task raised that is no error of tvm-mnas.
        """
        ...


def parallel_trainings(jobs: int, devices: Sequence[str]) -> int:
    """Return how many trainings run side by side on `devices`: `jobs`, or if that is 0 one on each, one a core."""
    return jobs or (usable_processes() if tuple(devices) == ("cpu",) else len(devices))


def run_all(
    executor: Executor,
    function: Callable[[_Task, Callable[[int], None]], _Result],
    tasks: Sequence[_Task],
    *,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Iterator[tuple[int, TaskOutcome[_Result]]]:
    """Yield `(index, outcome)` of `function(task, report)` for each task, as each is done, in any order.

    `on_progress` is called now and then with the sum of the steps of all tasks. Other tasks that end meanwhile are
    told to who submitted them.
    """
    ended: deque[tuple[int, TaskOutcome[_Result]]] = deque()
    submitted = [
        executor.submit(function, task, partial(_note, ended, index))
        for index, task in enumerate(tasks)
    ]
    left = len(tasks)
    while left:
        executor.poll(_POLL_S)
        on_progress(sum(one.steps for one in submitted))
        while ended:
            left -= 1
            yield ended.popleft()


def _note(
    ended: deque[tuple[int, TaskOutcome[_Result]]], index: int, outcome: TaskOutcome[_Result]
) -> None:
    ended.append((index, outcome))


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

    def __init__(self, *, jobs: int) -> None:
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
            if submitted.deaths == _ATTEMPTS:
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


@dataclass(eq=False)
class _Inline:
    """A task of an `InlineExecutor`."""

    function: Callable[..., Any]
    task: Any
    on_end: Callable[[TaskOutcome[Any]], None]
    steps: int = 0

    def report(self, steps: int) -> None:
        self.steps = steps


class InlineExecutor:
    """Runs each task in this process, one after the other, whatever `jobs` says: for a look at it with a debugger."""

    def __init__(self, *, jobs: int = 1) -> None:
        self._queue: deque[_Inline] = deque()

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.clear()

    def submit(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        task: _Task,
        on_end: Callable[[TaskOutcome[_Result]], None],
    ) -> _Inline:
        """Put `function(task, report)` in the queue; see `Executor`."""
        submitted = _Inline(function, task, on_end)
        self._queue.append(submitted)
        return submitted

    def poll(self, timeout_s: float) -> None:
        """Call the next function of the queue, however long it takes; see `Executor`."""
        if not self._queue:
            return
        next_one = self._queue.popleft()
        try:
            outcome = TaskOutcome(next_one.function(next_one.task, next_one.report), None)
        except TvmMnasError as error:
            outcome = TaskOutcome(None, error)
        next_one.on_end(outcome)


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
