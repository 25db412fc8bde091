"""One training on a node of a Ray cluster: what is sent there, what runs there, and what comes back.

Ray sends functions by their name, so a node needs the same tvm-mnas and torch as the machine that searches: each task
says which, and refuses to begin with others.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import tvm_mnas
from tvm_mnas.errors import ConfigError, TvmMnasError

_REPORT_S = 0.5
"""So often a task tells how far it is, at most."""
_MOST_OUTPUT = 64 * 1024
"""So many characters of what a task prints come back, the last ones."""
_COMPARED = ("torch", "numpy")


@runtime_checkable
class LeavesFiles(Protocol):
    """A task whose function writes files. Where it runs they go to a directory of that machine, and then come back."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it writes."""
        ...

    def written_to(self, directory: Path) -> LeavesFiles:
        """Return the same task, its files in `directory` under the same names."""
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A task on its way: `function(task, report)`, to be called with so many threads where `versions` are installed."""

    number: int
    function: Callable[[Any, Callable[[int], None]], Any]
    task: Any
    versions: Mapping[str, str]
    threads: int


@dataclass(frozen=True, slots=True)
class Returned:
    """What came of a task: its result or its error, its last steps, its files, and what it printed on which node."""

    result: Any
    error: Exception | None
    steps: int
    files: Mapping[str, bytes]
    output: str
    node: str


class Board:
    """How many steps of each task are done: an actor beside the driver, which tasks report to."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def report(self, number: int, steps: int) -> None:
        """Take note of a task's progress."""
        self._steps[number] = steps

    def read(self) -> dict[int, int]:
        """Return the steps of each task by its number."""
        return self._steps


def installed_versions() -> dict[str, str]:
    """Return the versions here of what decides how a network trains."""
    versions = {"tvm-mnas": tvm_mnas.__version__}
    for package in _COMPARED:
        # Without the build: the same release for accelerators trains on an accelerator.
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package).partition("+")[0]
    return versions


def run_sent(sent: Sent, board: Any) -> Returned:
    """Call the function of `sent` on this node and return what came of it.

    What it raises is returned too: an error that Ray raises is then one of the node or of Ray.
    """
    printed = io.StringIO()
    # Read by torch when the first task of this process imports it.
    os.environ["OMP_NUM_THREADS"] = str(sent.threads)
    report = _Reporter(sent.number, board)
    with (
        tempfile.TemporaryDirectory(prefix="tvm-mnas-") as scratch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        result, error = _call(sent, Path(scratch), report)
        files = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    output = printed.getvalue()[-_MOST_OUTPUT:]
    return Returned(result, error, report.steps, files, output, platform.node())


def _call(sent: Sent, scratch: Path, report: Callable[[int], None]) -> tuple[Any, Exception | None]:
    try:
        _check_versions(sent.versions)
        task = sent.task
        if isinstance(task, LeavesFiles):
            task = task.written_to(scratch)
        return sent.function(task, report), None
    except TvmMnasError as error:
        return None, error
    except Exception as error:
        try:
            pickle.dumps(error)
        except Exception:
            # Somebody else's exception that cannot travel; its text can.
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _check_versions(expected: Mapping[str, str]) -> None:
    here = installed_versions()
    for package, wanted in expected.items():
        if here.get(package) != wanted:
            raise ConfigError(
                f"every node of a Ray cluster has the versions of the machine that searches: {package} is "
                f"{here.get(package, 'absent')} on {platform.node()}, and {wanted} here; install the same there"
            )


class _Reporter:
    """Tells the board how far a task is, now and then."""

    def __init__(self, number: int, board: Any) -> None:
        self.steps = 0
        self._number, self._board = number, board
        self._last = -_REPORT_S

    def __call__(self, steps: int) -> None:
        self.steps = steps
        now = time.monotonic()
        if now - self._last >= _REPORT_S:
            self._last = now
            self._board.report.remote(self._number, steps)
