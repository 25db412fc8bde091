"""Runs the short trainings side by side in processes of their own, one per core.

A process that dies takes nothing with it but its own task; the processes end with ours, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from tvm_mnas.devices.core.cores import usable_processes
from tvm_mnas.errors import TrainingError, TvmMnasError
from tvm_mnas.processes import ask_to_be_killed
from tvm_mnas.training.accelerators import WORKER_VARIABLE

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_POLL_S = 0.25
_ATTEMPTS_ALONE = 2
_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class TaskOutcome(Generic[_Result]):
    """What became of one task: a result or an error."""

    result: _Result | None
    error: TvmMnasError | None


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

    def map(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        tasks: Sequence[_Task],
        *,
        on_progress: Callable[[int], None] = ...,
    ) -> Iterator[tuple[int, TaskOutcome[_Result]]]:
        """Yield `(index, outcome)` of `function(task, report)` for each task, as each is done, in any order."""
        ...


def parallel_trainings(jobs: int, devices: Sequence[str]) -> int:
    """Return how many trainings run side by side on `devices`: `jobs`, or if that is 0 one on each, one a core."""
    return jobs or (usable_processes() if tuple(devices) == ("cpu",) else len(devices))


class LocalExecutor:
    """Up to `jobs` worker processes that stay warm from one `map` to the next; a context manager."""

    def __init__(self, *, jobs: int) -> None:
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        # Without a lock: each task writes its own slot, and a killed writer must not block the others.
        self._progress: Any = self._context.Array(ctypes.c_int64, _SLOTS, lock=False)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard_pool()

    def map(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        tasks: Sequence[_Task],
        *,
        on_progress: Callable[[int], None] = lambda steps: None,
    ) -> Iterator[tuple[int, TaskOutcome[_Result]]]:
        """Yield `(index, outcome)` of `function(task, report)` for each task, as each is done.

        `function` is importable by name, and calls `report(steps)` with the steps that it has done;
        `on_progress` is called now and then with the sum over all tasks. Errors of tvm-mnas become outcomes,
        and so does the death of a worker: a task that a worker died under, which may have been another's doing,
        is tried alone, twice at most.
        """
        if len(tasks) > _SLOTS:
            raise ValueError(f"an executor takes {_SLOTS} tasks at a time, not {len(tasks)}")
        for index in range(len(tasks)):
            self._progress[index] = 0
        broken: list[int] = []
        for index, outcome in self._run(function, tasks, range(len(tasks)), on_progress):
            if outcome is None:
                broken.append(index)
            else:
                yield index, outcome
        for suspect in sorted(broken):
            yield suspect, self._run_alone(function, tasks, suspect, on_progress)

    def _run_alone(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        tasks: Sequence[_Task],
        suspect: int,
        on_progress: Callable[[int], None],
    ) -> TaskOutcome[_Result]:
        for _ in range(_ATTEMPTS_ALONE):
            for _, outcome in self._run(function, tasks, [suspect], on_progress):
                if outcome is not None:
                    return outcome
        return TaskOutcome(None, TrainingError("a training process died twice"))

    def _run(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        tasks: Sequence[_Task],
        indices: Sequence[int],
        on_progress: Callable[[int], None],
    ) -> Iterator[tuple[int, TaskOutcome[_Result] | None]]:
        pool = self._open_pool()
        waiting: dict[Future[_Result], int] = {}
        died = False
        for index in indices:
            try:
                waiting[pool.submit(_run_task, function, tasks[index], index)] = index
            except BrokenProcessPool:
                died = True
                yield index, None
        while waiting:
            done, _ = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            on_progress(sum(self._progress[index] for index in range(len(tasks))))
            for future in done:
                index = waiting.pop(future)
                try:
                    yield index, TaskOutcome(future.result(), None)
                except TvmMnasError as error:
                    yield index, TaskOutcome(None, error)
                except BrokenProcessPool:
                    died = True
                    yield index, None
        if died:
            self._discard_pool()

    def _open_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._jobs,
                mp_context=self._context,
                initializer=_start_worker,
                # Of this pool alone: a worker that died with the lock blocks no later one.
                initargs=(self._progress, os.getpid(), self._context.Value("i", 0)),
            )
        return self._pool

    def _discard_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


class _Worker:
    """The state of one worker process."""

    progress: Any = None


def _start_worker(progress: Any, parent: int, started: Any) -> None:
    # An interrupt is the parent's to handle: it ends the workers when it has saved what it needs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ask_to_be_killed()
    if os.getppid() != parent:
        os._exit(1)
    # Read by torch when the first task imports it: one training a core, each on one thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    with started.get_lock():
        os.environ[WORKER_VARIABLE] = str(started.value)
        started.value += 1
    _Worker.progress = progress


def _run_task(
    function: Callable[[_Task, Callable[[int], None]], _Result], task: _Task, index: int
) -> _Result:
    def report(steps: int) -> None:
        _Worker.progress[index] = steps

    return function(task, report)
