"""What runs trainings, here or elsewhere, and what becomes of them.

An executor of one's own is made with an `ExecutorRequest`. `submit` begins a task or puts it in a queue, `poll` waits
for something to end, and a context manager ends everything; all of them are called from one thread. It knows where its
tasks train, `devices`, and how many at once, `slots`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, TypeVar, cast

from tvm_mnas.devices.core.cores import usable_processes
from tvm_mnas.errors import TvmMnasError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

ATTEMPTS = 2
"""So often a training is tried whose process dies."""
_POLL_S = 0.25


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


def _ignore(text: str) -> None:
    """Nobody wants to hear it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorRequest:
    """What an executor is asked for: `jobs` trainings side by side, 0 for as many as there is room for.

    `train_device` is what `--train-device` takes. What trainings print goes to the file `log`, if they run elsewhere.
    `on_warning` is told what a user should know and is no reason to end.
    """

    jobs: int = 0
    train_device: str = "auto"
    log: Path | None = None
    on_warning: Callable[[str], None] = _ignore


class Submitted(Protocol):
    """A task that an executor was given."""

    @property
    def steps(self) -> int:
        """How many steps of it are done, by its last report."""
        ...


class Executor(Protocol):
    """Runs trainings somewhere; a context manager. What `--executor` names is called with an `ExecutorRequest`."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Where its tasks train, as torch names it: they take these in turn. Known once it is entered."""
        ...

    @property
    def slots(self) -> int:
        """How many tasks run side by side. Known once it is entered."""
        ...

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
