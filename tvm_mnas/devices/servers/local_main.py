"""The processes of a local farm: `python -m tvm_mnas.devices.servers.local_main tracker|server ...`.

Both are TVM's own, run so that they survive what stops them otherwise. TVM's Python server stops listening
for good when a session's child crashes, yet lives on and stays registered. Here it runs in a process forked
from one that imported TVM once: when its listening thread ends, that process ends, which unregisters it, and
a new one is forked within milliseconds. SIGUSR1 asks for the same when it hangs.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from tvm_mnas.devices.core.host import device_facts, device_state
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.errors import TrackerError
from tvm_mnas.processes import ask_to_be_killed, block_torch, die_with_parent

FACTS_FUNCTION = "tvm_mnas.device_facts"
"""What our server answers beside TVM's own functions: the device's facts as JSON."""

STATE_FUNCTION = "tvm_mnas.device_state"
"""Likewise: the device's clocks and heat at this moment, as JSON; what cannot be read is left out."""

INSTRUCTIONS_FUNCTION = "tvm_mnas.device_instructions"
"""What the bundle's server answers in an emulator that counts: the instructions of one call, all and by class."""

EVICT_FUNCTION = "tvm_mnas.device_evict"
"""Likewise: has a kernel's image and its output, the first argument and the last, in the caches and little else.

So it is where a network calls the kernel: the image was just written, and the output takes the place of another.
"""

_EVICTED_BYTES = 16 << 20
"""About what a mobile network reads and writes from one run of a kernel to the next: its weights and its images."""
_PORTS_TO_TRY = 200
_RESTART_PAUSE_S = 0.02


def runtime_environment() -> dict[str, str]:
    """Return what a process that only runs compiled code needs: TVM's runtime without its compiler.

    It halves the start (0.5 s instead of 1.1 s) and the memory (80 MB instead of 190 MB).
    """
    return {"TVM_USE_RUNTIME_LIB": "1"}


def main(arguments: Sequence[str]) -> None:
    """Run a tracker or a server until killed."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m tvm_mnas.devices.servers.local_main")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tracker", "server"):
        command = commands.add_parser(name)
        command.add_argument("--host", default="127.0.0.1")
        command.add_argument("--port", type=int, required=True, help="the tracker's port")
        if name == "server":
            command.add_argument("--key", required=True)
            command.add_argument("--core", type=int, default=None)
    options = parser.parse_args(arguments)
    block_torch()
    if options.command == "tracker":
        _run_tracker(options.host, options.port)
    else:
        _run_server(TrackerAddress(options.host, options.port), options.key, options.core)


def _run_tracker(host: str, port: int) -> None:
    from tvm.rpc.tracker import PopenTrackerServerState

    state = PopenTrackerServerState(host, port, port + 1, silent=False)
    state.thread.join()
    sys.exit("the tracker's thread ended")


def _run_server(tracker: TrackerAddress, key: str, core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    multiprocessing.set_start_method("fork")  # TVM's server hands an open socket to its children
    _load_extra_library()
    import tvm_ffi

    for name, answer in ((FACTS_FUNCTION, device_facts), (STATE_FUNCTION, device_state)):
        tvm_ffi.register_global_func(name, partial(_as_json, answer), override=True)
    tvm_ffi.register_global_func(EVICT_FUNCTION, evict, override=True)
    # Every process forked from here on, down to the sessions' children, ends with the one above it.
    os.register_at_fork(after_in_child=ask_to_be_killed)
    listener = 0

    def renew(number: int, frame: FrameType | None) -> None:
        if listener:
            os.kill(listener, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, renew)
    while True:
        _wait_for(tracker)
        listener = os.fork()
        if listener == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            _listen(tracker, key)
        _, status = os.waitpid(listener, 0)
        listener = 0
        print(f"listener ended with status {status}; starting another", flush=True)
        time.sleep(_RESTART_PAUSE_S)


def _as_json(answer: Callable[[], dict[str, str]]) -> str:
    return json.dumps(answer())


def evict(first: Any, *others: Any) -> None:
    """Have the caches hold a kernel's image, `first`, and its output, the last of `others`, and little else."""
    import numpy as np

    _read(_evicted())
    for tensor in (*others[-1:], first):
        # A tensor that came over RPC owns nothing, and what lends its memory otherwise crashes.
        size = math.prod(tensor.shape) * np.dtype(str(tensor.dtype)).itemsize
        _read(np.frombuffer((ctypes.c_char * size).from_address(tensor.data_ptr()), np.uint8))


@cache
def _evicted() -> Any:
    import numpy as np

    return np.ones(_EVICTED_BYTES // 4, np.float32)


def _read(values: Any) -> None:
    """Have the caches hold what they can of `values`."""
    import numpy as np

    np.maximum.reduce(values, axis=None)


def _listen(tracker: TrackerAddress, key: str) -> None:
    try:
        from tvm.rpc.server import PopenRPCServerState

        port = free_port(tracker.host)
        state = PopenRPCServerState(
            tracker.host,
            port,
            min(port + _PORTS_TO_TRY, 65535),
            tracker_addr=(tracker.host, tracker.port),
            key=key,
            custom_addr=tracker.host,
            silent=True,  # it would log every kernel
        )
        state.thread.join()
    finally:
        os._exit(1)  # not sys.exit: this is a fork, what the parent registered at exit is not ours


def _wait_for(tracker: TrackerAddress) -> None:
    """Return once the tracker answers: TVM's own retry sleeps for 5 s."""
    while True:
        try:
            TrackerClient(tracker, timeout_s=1.0).close()
            return
        except TrackerError:
            time.sleep(0.02)


def _load_extra_library() -> None:
    """Load what TVM's runtime keeps apart and measuring needs: random fill, sort."""
    import tvm  # noqa: F401 -- loads the runtime that the extra library links to

    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "lib" / "libtvm_runtime_extra.so"
    if library.exists():
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def free_port(host: str) -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
