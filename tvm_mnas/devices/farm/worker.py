"""The process that speaks TVM's RPC: `python -m tvm_mnas.devices.farm.worker READ_FD WRITE_FD CORES`.

It answers one request at a time over its pipes and keeps one session with one device warm between them. It
may hang or crash at any moment; whoever started it kills it at the deadline and starts another. It imports
TVM's runtime only, never the compiler.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import select
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm_mnas.devices.core.tracker import Grant, TrackerAddress, TrackerClient, address_text
from tvm_mnas.devices.farm.channel import WorkerStatus, read_frame, write_frame
from tvm_mnas.devices.farm.clocks import cold_times_s, counted, evicts, warm_times_s
from tvm_mnas.devices.servers.local_main import FACTS_FUNCTION, STATE_FUNCTION
from tvm_mnas.errors import LeaseTimeoutError, TrackerError
from tvm_mnas.processes import block_torch, die_with_parent

_ENTRY = "main"
_RPC_MAGIC = 0xFF271
_NOBODY = b"client:tvm-mnas-probe"
_PROBE_S = 3.0
"""What a connection may take; a device that is further away could not be measured."""


class _SessionLostError(Exception):
    """The device no longer answers on this session."""


class _UnreachableError(Exception):
    """Nothing can be connected to at the device's address."""


class _Session:
    """One open RPC session and what is loaded in it."""

    def __init__(self, grant: Grant, *, lifetime_s: float, shared: str | None) -> None:
        """Connect to the device of `grant`; one of this machine reads files in the directory `shared`."""
        from tvm import rpc

        self.address = address_text(grant.host, grant.port)
        self.ends = time.monotonic() + lifetime_s
        try:
            self.remote = rpc.connect(
                grant.host, grant.port, grant.match_key, session_timeout=math.ceil(lifetime_s)
            )
            self.device = self.remote.cpu(0)
        except Exception as error:
            raise _SessionLostError(f"{self.address}: {_first_line(error)}") from error
        self._shared = shared
        self._uploads = 0
        self._fill: Any = None
        self._arguments: tuple[str, list[Any]] | None = None
        self._reference: tuple[str, Any, list[Any]] | None = None
        self.network: tuple[Any, Any] | None = None
        self.counts = False
        self.evicts = False
        self._kept: tuple[tuple[int, ...], tuple[Any, Any]] | None = None

    def alive(self) -> bool:
        """Whether the device still answers, with one round trip."""
        try:
            self.remote.get_function("tvm.rpc.server.workpath")("x")
        except Exception:
            return False
        return True

    def load(self, path: str) -> Any:
        """Return the remote module of a local shared library."""
        # A name of its own for each: the loader would take the same name for the same library.
        if self._shared is not None:
            # TVM's upload takes 20 ms a megabyte, and the weights of a network are many.
            with tempfile.TemporaryDirectory(dir=self._shared) as directory:
                return self.remote.load_module(shutil.copy(path, directory))
        self._uploads += 1
        name = f"{self._uploads}.so"
        self.remote.upload(bytearray(Path(path).read_bytes()), target=name)
        library = self.remote.load_module(name)
        self.remote.remove(name)
        return library

    def load_network(self, path: str) -> None:
        """Have the network of a local shared library: the one that was there last is not uploaded again."""
        from tvm.runtime.vm import VirtualMachine

        status = os.stat(path)
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if self._kept is None or self._kept[0] != identity:
            self.drop_network()
            library = self.load(path)
            self._kept = (identity, (library, VirtualMachine(library, self.device)))
        self.network = self._kept[1]

    def drop_network(self) -> None:
        """Free the device's memory of the network."""
        self.network = self._kept = None

    def random_arguments(self, specs: list[list[Any]]) -> list[Any]:
        """Return remote tensors of these [dtype, shape], kept for the next kernel with the same arguments."""
        signature = json.dumps(specs)
        if self._arguments is None or self._arguments[0] != signature:
            self._arguments = None
            self._arguments = (signature, self._new_arguments(specs))
        return self._arguments[1]

    def reference(self, path: str, specs: list[list[Any]]) -> tuple[Any, list[Any]]:
        """Return the remote module of the reference kernel and its arguments, uploaded once in a session."""
        if self._reference is None or self._reference[0] != path:
            self._reference = (path, self.load(path), self._new_arguments(specs))
        return self._reference[1:]

    def _new_arguments(self, specs: list[list[Any]]) -> list[Any]:
        import tvm

        if self._fill is None:
            self._fill = self.remote.get_function("tvm.contrib.random.random_fill_for_measure")
        tensors = []
        for dtype, shape in specs:
            tensor = tvm.runtime.empty(tuple(shape), dtype, self.device)
            self._fill(tensor)
            tensors.append(tensor)
        return tensors


class Worker:
    """Answers requests; each method named `do_...` is one, takes its values and returns the reply's."""

    def __init__(self) -> None:
        """Start without a session."""
        self._session: _Session | None = None
        self._grant: Grant | None = None
        self._operations: dict[
            str, Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]
        ] = {
            "find": self.do_find,
            "connect": self.do_connect,
            "close": self.do_close,
            "kernel": self.do_kernel,
            "reference": self.do_reference,
            "load": self.do_load,
            "time": self.do_time,
            "count": self.do_count,
            "run": self.do_run,
            "state": self.do_state,
        }

    def answer(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the reply to one request, its status included; never raises."""
        try:
            values, answer = self._operations[request["op"]](request, payload)
            return {"status": WorkerStatus.OK, **values}, answer
        except LeaseTimeoutError as error:
            return {"status": WorkerStatus.NO_DEVICE, "message": str(error)}, b""
        except TrackerError as error:
            return {"status": WorkerStatus.NO_TRACKER, "message": str(error)}, b""
        except _UnreachableError as error:
            return {"status": WorkerStatus.UNREACHABLE, "message": str(error)}, b""
        except Exception as error:
            message = f"{type(error).__name__}: {_first_line(error)}"
        # Out of the handler, so that the traceback no longer holds remote objects.
        lost = self._session is None or not self._session.alive()
        if lost:
            self.close_session()
        return {
            "status": WorkerStatus.LOST if lost else WorkerStatus.FAILED,
            "message": message,
        }, b""

    def close_session(self) -> None:
        """Give the device back; it is free only once no remote object is left."""
        if self._session is not None:
            self._session = None
            gc.collect()

    def do_find(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Have a session that answers and lasts for `hold_s`, or a device to `connect` to; returns its address.

        A device in `avoid` is not taken: its server offers it again by itself.
        """
        session = self._session
        if session is not None:
            if session.ends - time.monotonic() > request["hold_s"] and session.alive():
                return {"server": session.address, "connected": True}, b""
            del session
            self.close_session()
        address = TrackerAddress(request["tracker_host"], request["tracker_port"])
        end = time.monotonic() + request["wait_s"]
        while True:
            with TrackerClient(address) as tracker:
                left_s = max(end - time.monotonic(), 0.001)
                grant = tracker.request(request["key"], deadline_s=left_s)
            server = address_text(grant.host, grant.port)
            if server not in request["avoid"]:
                break
        self._grant = grant
        return {"server": server, "connected": False}, b""

    def do_connect(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Open a session of `lifetime_s` with the device that was found, or use the one there is; returns its facts.

        With `probe` its address is tried first; a device of this machine reads files in `shared`.
        """
        session = self._session
        if session is None:
            if self._grant is None:
                raise _SessionLostError("no device was found")
            grant, self._grant = self._grant, None
            if request["probe"]:
                _probe(grant)
            self._session = session = _Session(
                grant,
                lifetime_s=float(request["lifetime_s"]),
                shared=request["shared"],
            )
        session.network = None
        try:
            facts = json.loads(str(session.remote.get_function(FACTS_FUNCTION)()))
        except Exception:
            # TVM's stock server has no such function; a dead session fails again at once.
            if not session.alive():
                raise
            facts = {"server": request["known_as"]}
        session.counts = facts.get("instructions") == "counted"
        session.evicts = evicts(session.remote)
        return {"facts": facts}, b""

    def do_close(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Give the device back."""
        self.close_session()
        return {}, b""

    def do_state(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the device's clocks and heat; none from a server that does not tell."""
        session = self._need_session()
        try:
            state = json.loads(str(session.remote.get_function(STATE_FUNCTION)()))
        except Exception:
            if not session.alive():
                raise
            state = {}
        return {"state": state}, b""

    def do_kernel(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Time a kernel's entry function on random arguments: seconds per repeat, or what an emulator counts.

        With `cold` the caches are as in a network, where the device's server can see to that.
        """
        session = self._need_session()
        session.drop_network()
        library = session.load(request["path"])
        arguments = session.random_arguments(request["arguments"])
        if session.counts:
            entry = request.get("entry") or library.entry_name
            return {"instructions": counted(session.remote, library, entry, arguments)}, b""
        times_s = cold_times_s if request["cold"] and session.evicts else warm_times_s
        return {"samples_s": times_s(library, session.device, arguments, request)}, b""

    def do_reference(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Time the reference kernel; what else is loaded stays so."""
        session = self._need_session()
        library, arguments = session.reference(request["path"], request["arguments"])
        return {"samples_s": warm_times_s(library, session.device, arguments, request)}, b""

    def do_load(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Have a compiled network on the device and set its input to the payload, an array of `shape` and `dtype`."""
        session = self._need_session()
        session.network = None
        session.load_network(request["path"])
        self._set_input(session, request, payload)
        return {}, b""

    def do_time(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Time the loaded network; returns seconds per repeat."""
        session = self._need_session()
        _, machine = self._need_network(session)
        timing = request["timing"]
        for _ in range(timing["warmup"]):
            machine.invoke_stateful(_ENTRY)
        # Not `machine["main"]`: over RPC a tuple comes back as an unusable reference (apache/tvm#18108).
        evaluator = machine.time_evaluator(
            "invoke_stateful",
            session.device,
            number=timing["number"],
            repeat=timing["repeat"],
            min_repeat_ms=timing["min_repeat_ms"],
            cooldown_interval_ms=timing["cooldown_ms"],
        )
        return {"samples_s": [float(value) for value in evaluator(_ENTRY).results]}, b""

    def do_count(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Count the instructions of one run of the loaded network."""
        session = self._need_session()
        _, machine = self._need_network(session)
        return {
            "instructions": counted(session.remote, machine.module, "invoke_stateful", [_ENTRY])
        }, b""

    def do_run(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Run the loaded network on the payload; returns dtype and shape of each output, and their bytes."""
        session = self._need_session()
        _, machine = self._need_network(session)
        self._set_input(session, request, payload)
        machine.invoke_stateful(_ENTRY)
        outputs = [tensor.numpy() for tensor in _flat(machine.get_outputs(_ENTRY))]
        described = [[str(array.dtype), list(array.shape)] for array in outputs]
        return {"outputs": described}, b"".join(array.tobytes() for array in outputs)

    def _need_session(self) -> _Session:
        if self._session is None:
            raise _SessionLostError("no session is open")
        return self._session

    @staticmethod
    def _need_network(session: _Session) -> tuple[Any, Any]:
        if session.network is None:
            raise ValueError("no network is loaded")
        return session.network

    def _set_input(self, session: _Session, request: Mapping[str, Any], payload: bytes) -> None:
        import numpy as np
        import tvm

        array = np.frombuffer(payload, dtype=request["dtype"]).reshape(request["shape"])
        _, machine = self._need_network(session)
        machine.set_input(_ENTRY, tvm.runtime.tensor(array, session.device))


def _probe(grant: Grant) -> None:
    """Connect and introduce ourselves as nobody, which a server refuses and forgets: TVM's client has no deadline.

    Raises _UnreachableError where no connection comes about. A server that does not refuse has other troubles.
    """
    try:
        probe = socket.create_connection((grant.host, grant.port), timeout=_PROBE_S)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise _UnreachableError(reason) from error
    with probe, contextlib.suppress(OSError):
        probe.sendall(struct.pack("<ii", _RPC_MAGIC, len(_NOBODY)) + _NOBODY)
        probe.recv(4)


def _flat(outputs: Any) -> list[Any]:
    if isinstance(outputs, (tuple, list)):
        return [tensor for output in outputs for tensor in _flat(output)]
    return [outputs]


def _first_line(error: BaseException) -> str:
    # TVM puts its C++ stack first and the reason last.
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def main(read_fd: int, write_fd: int, cores: list[int]) -> None:
    """Answer requests until the pipe closes; an idle session is given back after its `idle_s`."""
    die_with_parent()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    block_torch()
    import tvm.rpc  # noqa: F401 -- warm before the first request

    write_frame(write_fd, {"ready": True})
    worker = Worker()
    idle_s: float | None = None
    while True:
        if not select.select([read_fd], [], [], idle_s)[0]:
            worker.close_session()
            idle_s = None
            continue
        try:
            request, payload = read_frame(read_fd)
        except EOFError:
            break
        values, answer = worker.answer(request, payload)
        write_frame(write_fd, values, answer)
        idle_s = request.get("idle_s", idle_s)
    os._exit(0)  # destructors of remote objects may wait for a device that no longer answers


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [int(core) for core in sys.argv[3].split(",") if core])
