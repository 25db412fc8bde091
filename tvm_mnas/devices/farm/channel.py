"""The pipe between us and a worker process: framed JSON with an optional block of bytes, under a deadline.

Nothing here knows TVM. A worker that misses its deadline is killed: that is what ends a hang inside TVM's
RPC client, which has no deadline of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tvm_mnas.processes import kill_group

_FRAME = struct.Struct("<IQ")
_MAX_HEADER_BYTES = 1 << 24
_PIPE_BYTES = 1 << 16
_START_DEADLINE_S = 60.0
"""How long a worker may take to import TVM: 0.5 s, more on a busy machine."""


class WorkerStatus(StrEnum):
    """How a request to a worker ended."""

    OK = "ok"
    FAILED = "failed"  # the device answered with an error
    LOST = "lost"  # the connection to the device, or the worker itself, is gone
    HUNG = "hung"  # nothing came back before the deadline
    NO_DEVICE = "no-device"  # the tracker gave no device before the deadline
    UNREACHABLE = "unreachable"  # nothing can be connected to at the address that the tracker gave
    NO_TRACKER = "no-tracker"  # the tracker does not answer


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """What came back: a status, values, and bytes where the request asks for an array."""

    status: WorkerStatus
    values: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    @property
    def message(self) -> str:
        """The first line of the reason for anything but OK."""
        lines = str(self.values.get("message", "")).strip().splitlines()
        return lines[0][:400] if lines else str(self.status)


def write_frame(descriptor: int, values: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write one message to a blocking descriptor."""
    header = json.dumps(values).encode()
    _write_all(descriptor, _FRAME.pack(len(header), len(payload)) + header, None)
    _write_all(descriptor, payload, None)


def read_frame(descriptor: int, *, end: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Return the next message; raises EOFError where the other side is gone, TimeoutError past `end`."""
    header_bytes, payload_bytes = _FRAME.unpack(_read_all(descriptor, _FRAME.size, end))
    if header_bytes > _MAX_HEADER_BYTES:
        raise EOFError(f"a header of {header_bytes} bytes is no message")
    header = json.loads(_read_all(descriptor, header_bytes, end))
    return header, _read_all(descriptor, payload_bytes, end)


class WorkerHandle:
    """Our end of one worker process, started when it is first needed and again after it was killed."""

    def __init__(self, spawn: Callable[[int, int], subprocess.Popen[bytes]]) -> None:
        """Keep `spawn(read_fd, write_fd)`, which starts a worker that reads and writes these descriptors."""
        self._spawn = spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._to_worker = -1
        self._from_worker = -1

    @property
    def pid(self) -> int | None:
        """The worker's process id, `None` where none runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the worker where none runs; it warms up while we do something else."""
        if self._process is not None:
            return
        worker_reads, self._to_worker = os.pipe()
        self._from_worker, worker_writes = os.pipe()
        os.set_blocking(self._to_worker, False)
        try:
            self._process = self._spawn(worker_reads, worker_writes)
        finally:
            os.close(worker_reads)
            os.close(worker_writes)
            if self._process is None:
                self._close_pipes()

    def end_process(self) -> None:
        """Kill the worker from another thread than the one that calls it, which then gets LOST."""
        process = self._process
        if process is not None:
            kill_group(process)

    def call(
        self, request: Mapping[str, Any], *, deadline_s: float, payload: bytes = b""
    ) -> WorkerReply:
        """Send one request and return its reply; LOST and HUNG end the worker, the next call starts one."""
        try:
            self.start()
            if not self._ready:
                read_frame(self._from_worker, end=time.monotonic() + _START_DEADLINE_S)
                self._ready = True
        except (OSError, EOFError) as error:
            self.kill()
            return WorkerReply(
                WorkerStatus.LOST, {"message": f"the worker process did not start ({error})"}
            )
        end = time.monotonic() + deadline_s
        header = json.dumps(request).encode()
        try:
            frame = _FRAME.pack(len(header), len(payload)) + header
            _write_all(self._to_worker, frame, end)
            _write_all(self._to_worker, payload, end)
            values, answer = read_frame(self._from_worker, end=end)
            return WorkerReply(WorkerStatus(values.pop("status")), values, answer)
        except TimeoutError:
            self.kill()
            return WorkerReply(
                WorkerStatus.HUNG, {"message": f"no answer within {deadline_s:.2g} s"}
            )
        except (EOFError, OSError, ValueError, KeyError) as error:
            self.kill()
            return WorkerReply(
                WorkerStatus.LOST, {"message": f"the worker process ended ({error})"}
            )

    def kill(self) -> None:
        """End the worker, whatever it is doing."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None
        self._ready = False
        self._close_pipes()

    def _close_pipes(self) -> None:
        for descriptor in (self._to_worker, self._from_worker):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._to_worker = self._from_worker = -1


def _write_all(descriptor: int, data: bytes, end: float | None) -> None:
    view = memoryview(data)
    while view:
        if end is not None:
            _wait(descriptor, write=True, end=end)
        try:
            view = view[os.write(descriptor, view[:_PIPE_BYTES]) :]
        except BlockingIOError:
            continue


def _read_all(descriptor: int, size: int, end: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if end is not None:
            _wait(descriptor, write=False, end=end)
        chunk = os.read(descriptor, min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError("the pipe is closed")
        data += chunk
    return bytes(data)


def _wait(descriptor: int, *, write: bool, end: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if write else select.POLLIN)
    if not poll.poll(max(0.0, (end - time.monotonic()) * 1e3)):
        raise TimeoutError("deadline passed")
