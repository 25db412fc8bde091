"""Warm build workers: processes that have TVM loaded and turn kernels into libraries to be measured.

TVM's own builder starts fresh processes for every batch, and each spends half a minute on imports. These start
once, are kept busy by `tuning.py`, and are replaced when they die, hang or grow old (TVM leaks). The core that
measures builds too while nothing is measured: its worker is stopped as a process, and goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.files import require_room
from tvm_mnas.processes import Spawner, kill_group

_START_S = 120.0
"""How long a worker may take to import TVM, on a machine that is busy with other things."""
_SEARCH_S = 60.0
"""How long a round may search for schedules, beside building them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One request: propose and build `schedules` schedules of a kernel that are not among its `records`."""

    workload: str
    target: str
    records: tuple[str, ...]
    schedules: int
    seed: int


@dataclass(frozen=True, slots=True)
class BuiltSchedule:
    """One schedule: its record without run times (MetaSchedule's JSON), and its library or why there is none.

    A failure starts with its reason: build-error, build-crash or build-timeout.
    """

    record: str
    path: Path
    failure: str | None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What became of the round with this ticket; `error` says why there are no schedules at all."""

    ticket: int
    built: tuple[BuiltSchedule, ...]
    error: str | None

    @property
    def failed(self) -> bool:
        """Whether the round, or one of its schedules, failed."""
        return self.error is not None or any(built.failure is not None for built in self.built)


class WarmBuilder:
    """Build workers, each bound to one of `cores` or `borrowed` cores. A context manager; its files end with it.

    Those on borrowed cores start when they are first needed, and `pause` stops them.
    """

    def __init__(
        self,
        *,
        cores: Sequence[int],
        borrowed: Sequence[int] = (),
        linker: Linker,
        log: Path,
        scratch: Path | None = None,
        build_deadline_s: float = 20.0,
        rounds_per_worker: int = 200,
    ) -> None:
        """Start the workers of `cores`, which import TVM in the background.

        `log` takes what they print; what they build goes below `scratch`, the system's directory for temporary
        files if None, and is removed at the end, unless the end is a `kill -9`.
        """
        self._linker = linker
        # The workers run in a directory of their own, where a relative path would mean another place.
        self._log = log.resolve()
        self._build_deadline_s = build_deadline_s
        self._rounds_per_worker = rounds_per_worker
        self._tickets = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix="tvm-mnas-build-", dir=scratch)).resolve()
        self._spawner = Spawner()
        self._borrowed = [_Worker(core) for core in borrowed]
        self._workers = [*(_Worker(core) for core in cores), *self._borrowed]
        self._paused_at: float | None = None
        for worker in self._workers:
            if worker not in self._borrowed:
                self._start(worker)

    def __enter__(self) -> WarmBuilder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove what they built."""
        for worker in self._workers:
            worker.end()
        self._spawner.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def idle(self) -> int:
        """How many workers wait for a round."""
        return len(self._idle())

    def pause(self) -> None:
        """Stop the workers on borrowed cores, and what they build, until `resume`."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()
            for worker in self._borrowed:
                worker.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the workers on borrowed cores go on; the pause does not count against their deadlines."""
        if self._paused_at is None:
            return
        paused_s = time.monotonic() - self._paused_at
        self._paused_at = None
        for worker in self._borrowed:
            worker.deadline += paused_s
            worker.signal(signal.SIGCONT)

    def submit(self, task: BuildRequest) -> int:
        """Give `task` to an idle worker and return its ticket; there must be one (`idle`).

        Raises:
            HostError: if the disk is all but full.
        """
        require_room(self._directory)
        worker = self._idle()[0]
        if worker.rounds >= self._rounds_per_worker or not worker.alive:
            self._start(worker)
        self._tickets += 1
        request = {
            "workload": task.workload,
            "target": task.target,
            "records": list(task.records),
            "schedules": task.schedules,
            "seed": task.seed,
            "prefix": str(self._directory / str(self._tickets)),
            "linker": list(self._linker.command),
            "deadline_s": self._build_deadline_s,
        }
        deadline_s = _START_S + _SEARCH_S + self._build_deadline_s * task.schedules
        worker.send(json.dumps(request), self._tickets, time.monotonic() + deadline_s)
        return self._tickets

    def poll(self, timeout_s: float) -> list[BuildResult]:
        """Return the rounds that ended, after at most `timeout_s`; a worker that died or hung ends its round.

        Raises:
            HostError: if a build failed, and the disk is all but full.
        """
        results: list[BuildResult] = []
        busy = {worker.read_fd: worker for worker in self._workers if worker.ticket is not None}
        ready, _, _ = select.select(list(busy), [], [], timeout_s) if busy else ([], [], [])
        for fd in ready:
            worker = busy[fd]
            line = worker.receive()
            if line is None:
                continue
            ticket = worker.finish()
            if line:
                results.append(_parse(ticket, line))
            else:
                self._start(worker)
                results.append(BuildResult(ticket, (), "worker-died: a build worker died"))
        for worker in busy.values():
            if self._is_paused(worker):
                continue
            if worker.ticket is not None and time.monotonic() > worker.deadline:
                ticket = worker.finish()
                self._start(worker)
                results.append(BuildResult(ticket, (), "worker-hung: a build worker was killed"))
        if any(result.failed for result in results):
            # A full disk fails builds in every way but by name.
            require_room(self._directory)
        return results

    def processes(self) -> list[int]:
        """Return the process ids of the workers, for tests and for diagnosis."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def _is_paused(self, worker: _Worker) -> bool:
        return self._paused_at is not None and worker in self._borrowed

    def _idle(self) -> list[_Worker]:
        return [
            worker
            for worker in self._workers
            if worker.ticket is None and not self._is_paused(worker)
        ]

    def _start(self, worker: _Worker) -> None:
        worker.end()
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        worker.process = self._spawner.spawn_module(
            "tvm_mnas.compiler.tuning.worker_main",
            [str(request_read), str(reply_write), str(worker.core)],
            directory=self._directory,
            log=self._log,
            environment={"OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"},
            pass_fds=(request_read, reply_write),
        )
        os.close(request_read)
        os.close(reply_write)
        worker.attach(reply_read, request_write)


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, core: int) -> None:
        self.core = core
        self.process: subprocess.Popen[bytes] | None = None
        self.read_fd = -1
        self.ticket: int | None = None
        self.deadline = 0.0
        self.rounds = 0
        self._write_fd = -1
        self._buffer = b""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def attach(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self._write_fd = read_fd, write_fd
        self._buffer = b""
        self.rounds = 0

    def send(self, line: str, ticket: int, deadline: float) -> None:
        self.ticket, self.deadline = ticket, deadline
        self.rounds += 1
        data = line.encode() + b"\n"
        # A worker that is dead is noticed by `receive`, which then finds the end of its pipe.
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._write_fd, data) :]

    def receive(self) -> bytes | None:
        """Return a whole line, None while it is incomplete, and nothing at the end of the pipe."""
        chunk = os.read(self.read_fd, 1 << 20)
        if not chunk:
            return b""
        self._buffer += chunk
        if not self._buffer.endswith(b"\n"):
            return None
        line, self._buffer = self._buffer, b""
        return line

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker and to what it builds."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def finish(self) -> int:
        assert self.ticket is not None
        ticket, self.ticket = self.ticket, None
        return ticket

    def end(self) -> None:
        if self.process is not None:
            kill_group(self.process)
            self.process = None
        for fd in (self.read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self._write_fd = -1


def _parse(ticket: int, line: bytes) -> BuildResult:
    reply = json.loads(line)
    built = tuple(
        BuiltSchedule(json.dumps(item["record"]), Path(item["path"]), item["failure"])
        for item in reply["built"]
    )
    return BuildResult(ticket, built, reply["error"])
