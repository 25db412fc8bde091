"""Runs trainings in this process, for a look at them with a debugger."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from tvm_mnas.errors import TvmMnasError
from tvm_mnas.evaluation.executors.protocol import ExecutorRequest, TaskOutcome
from tvm_mnas.training.accelerators import find_devices

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


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
    """Runs each task in this process, one after the other: for a look at it with a debugger."""

    slots = 1

    def __init__(self, *, devices: tuple[str, ...] = ("cpu",)) -> None:
        self.devices = devices[:1]
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


def open_inline(request: ExecutorRequest) -> InlineExecutor:
    """Return what `--executor inline` names, which trains one after the other whatever `jobs` says.

    Raises:
        ConfigError: if there is no such device to train on.
    """
    return InlineExecutor(devices=find_devices(request.train_device))
