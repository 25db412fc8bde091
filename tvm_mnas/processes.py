"""Child processes that end with us, whatever ends us.

`Spawner` starts processes from a thread that lives as long as they do; `die_with_parent`, called by the child
first thing, asks Linux to kill it when that thread is gone. The two belong together: the kernel ties the
signal to the *thread* that forked, so a child of a short-lived thread would die too early, and one that does
not ask outlives a `kill -9` of its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import getpass
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "TVM_MNAS_PARENT"
"""Tells a child whose child it is, so that it notices a parent that died before it could ask."""


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends; no-op where Linux's prctl is missing."""
    ask_to_be_killed()
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is not None and os.getppid() != int(expected):
        os._exit(1)


def ask_to_be_killed() -> None:
    """Set the parent-death signal of the calling process; forked children must ask again."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class _NoTorch(MetaPathFinder):
    """Finds that there is no torch."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"{fullname} is not for this process", name=fullname)


def ensure_home() -> None:
    """Have a home directory and a user's name where the system knows none, as for a container's unknown user.

    TVM and torch look for both when they are imported, and raise. The directory ends with this process.
    """
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.mkdtemp(prefix="tvm-mnas-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def block_torch() -> None:
    """Have `import torch` fail in this process, unless it is there already.

    TVM imports torch where it can, which costs seconds. A `None` in `sys.modules` would do that too, but scipy takes
    it for torch: with it xgboost cannot be imported where scikit-learn is installed.
    """
    sys.meta_path.insert(0, _NoTorch())


def load_runtime_only() -> None:
    """Have `import tvm` load its runtime without its compiler, and never torch; called before that import."""
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    block_torch()


@dataclass(frozen=True, slots=True)
class _Order:
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    pass_fds: tuple[int, ...]
    answer: Future[subprocess.Popen[bytes]]


class Spawner:
    """Starts processes, each the leader of a session of its own, from one long-lived thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._closed = False
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tvm-mnas-spawner", daemon=True)
        self._thread.start()

    def spawn_module(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start `python -m module` in `directory`, its output appended to `log`.

        The child runs in a session of its own: a Ctrl-C in the terminal reaches us only, and `kill_group`
        reaches it and everything it forked.
        """
        if self._closed:
            raise OSError("the spawner is closed")
        package_root = str(Path(__file__).resolve().parents[1])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {PARENT_VARIABLE: str(os.getpid()), "PYTHONPATH": os.pathsep.join(paths)}
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put(
            _Order(
                (sys.executable, "-m", module, *arguments),
                {**os.environ, **own, **environment},
                directory,
                log,
                tuple(pass_fds),
                answer,
            )
        )
        return answer.result()

    def close(self) -> None:
        """End the thread, and with it every process that it started and that is still there."""
        self._closed = True
        self._orders.put(None)
        self._thread.join()
        while not self._orders.empty():  # an order that slipped in behind
            late = self._orders.get()
            if late is not None:
                late.answer.set_exception(OSError("the spawner is closed"))

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                with order.log.open("ab") as log:
                    process = subprocess.Popen(
                        order.argv,
                        env=order.environment,
                        cwd=order.directory,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=order.pass_fds,
                        start_new_session=True,
                    )
            except OSError as error:
                order.answer.set_exception(error)
            else:
                order.answer.set_result(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a spawned process and everything in its session, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def tail(log: Path, *, lines: int = 3) -> str:
    """Return the last lines of a log in one, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log"
    return " | ".join(text.strip().splitlines()[-lines:]) or "empty log"
