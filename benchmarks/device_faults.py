"""What a device server survives: TVM's own in Python beside ours in C, the same faults through the same client.

    python benchmarks/device_faults.py             # some ten minutes: what does not come back is waited for

For each fault a tracker and a server are started, a good kernel is measured, the fault happens, and good kernels are
tried until one is measured again or `--within` seconds are over. Ours runs in the loop that `tvm-mnas device push` puts
around it; TVM's is started as its documentation says. Both are watched through the tracker that they register at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.core.tracker import TrackerAddress
    from tvm_mnas.devices.farm.farm import Farm

HOST = "127.0.0.1"
KEY = "board"
SERVERS = ("TVM's, Python", "ours, C")
KERNEL_S = 3.0
START_S = 60.0
GIVEN_BACK_S = 6.0
"""After this long without work our client gives a device back."""
BODIES = {
    "good": "volatile float x = 0; for (int i = 0; i < 20000; ++i) x += 1.0f; return 0;",
    "crash": "raise(SIGSEGV); return 0;",
    "hang": "for (;;) pause();",
}


def compile_kernels(directory: Path) -> dict[str, Path]:
    """Return a shared library for each of BODIES, and one for another machine."""
    paths = {}
    for name, body in BODIES.items():
        source = directory / f"{name}.c"
        source.write_text(
            "#include <signal.h>\n#include <unistd.h>\n"
            f"int __tvm_ffi_main(void *self, const void *arguments, int count, void *result) {{ {body} }}\n"
        )
        paths[name] = directory / f"{name}.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(paths[name]), str(source)]
        subprocess.run(command, check=True)
    alien = bytearray(paths["good"].read_bytes())
    alien[18:20] = struct.pack("<H", 0xF3)  # e_machine: RISC-V
    paths["alien"] = directory / "alien.so"
    paths["alien"].write_bytes(alien)
    return paths


@dataclass
class Rig:
    """A tracker, one server and our client."""

    address: TrackerAddress
    port: int
    farm: Farm
    kernels: dict[str, Path]
    tracker: subprocess.Popen[bytes]
    server: subprocess.Popen[bytes]

    def measure(self, kernel: str) -> bool:
        """Return whether a kernel was measured."""
        from tvm_mnas.devices.core.profile import TimingSettings
        from tvm_mnas.devices.farm.runner import measure_kernel

        once = TimingSettings(
            repeat=1, number=1, min_repeat_ms=0, warmup=0, max_spread=1.0, attempts=1
        )
        outcome = measure_kernel(
            self.farm,
            self.kernels[kernel],
            [("float32", (8, 8))],
            timing=once,
            deadline_s=KERNEL_S,
            lease_deadline_s=KERNEL_S,
        )
        return isinstance(outcome, list)

    def restart_tracker(self) -> None:
        """Start another tracker at the same address, while no session is open."""
        time.sleep(GIVEN_BACK_S)
        self.tracker.kill()
        self.tracker.wait()
        self.tracker = start_tracker(self.address)

    def kill_serving(self) -> None:
        """Kill the process that serves the session, in the middle of one."""
        import psutil

        with self.farm.lease():
            family = psutil.Process(self.server.pid).children(recursive=True)
            leaves = [process for process in family if not process.children()]
            leaves[-1].kill()

    def kill_server(self) -> None:
        """Kill the process that listens, while no session is open."""
        import psutil

        time.sleep(GIVEN_BACK_S)
        server = psutil.Process(self.server.pid)
        listening = [
            process
            for process in (*server.children(recursive=True), server)
            if any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
                for connection in process.net_connections(kind="tcp")
            )
        ]
        listening[0].kill()

    def shake_badly(self) -> None:
        time.sleep(GIVEN_BACK_S)
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(b"GET / HT")
            time.sleep(0.5)

    def say_nothing(self) -> socket.socket:
        time.sleep(GIVEN_BACK_S)
        return socket.create_connection((HOST, self.port), timeout=5)

    def die_with_a_lease(self) -> None:
        """Have a client take the device, start an endless kernel and be killed."""
        time.sleep(GIVEN_BACK_S)
        code = (
            "import sys; from tvm import rpc; "
            "t = rpc.connect_tracker(sys.argv[1], int(sys.argv[2])); "
            "r = t.request(sys.argv[3], session_timeout=600); r.upload(sys.argv[4]); "
            "m = r.load_module('hang.so'); print('held', flush=True); m['main']()"
        )
        arguments = [HOST, str(self.address.port), KEY, str(self.kernels["hang"])]
        client = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(1)
        client.kill()
        client.wait()


FAULTS: dict[str, Callable[[Rig], object]] = {
    "a kernel segfaults": lambda rig: rig.measure("crash"),
    "a kernel never returns": lambda rig: rig.measure("hang"),
    "a library for another machine": lambda rig: rig.measure("alien"),
    "the session's process is killed": Rig.kill_serving,
    "the listening process is killed": Rig.kill_server,
    "the tracker is restarted": Rig.restart_tracker,
    "a bad handshake of 8 bytes": Rig.shake_badly,
    "a connection that says nothing": Rig.say_nothing,
    "a client dies with a lease and a kernel running": Rig.die_with_a_lease,
}


def start_tracker(address: TrackerAddress) -> subprocess.Popen[bytes]:
    """Start TVM's tracker and return once it answers."""
    from tvm_mnas.devices.core.tracker import TrackerClient
    from tvm_mnas.errors import TrackerError

    command = [sys.executable, "-m", "tvm_mnas.devices.servers.local_main", "tracker"]
    quiet = subprocess.DEVNULL
    tracker = subprocess.Popen([*command, "--port", str(address.port)], stdout=quiet, stderr=quiet)
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(TrackerError):
            TrackerClient(address).close()
            return tracker
        time.sleep(0.05)
    raise SystemExit("the tracker did not start")


def start_server(
    kind: str, address: TrackerAddress, port: int, directory: Path
) -> subprocess.Popen[bytes]:
    """Start a server of this kind in a session of its own and return once one more is registered."""
    from tvm_mnas.devices.core.tracker import TrackerClient
    from tvm_mnas.devices.servers.bundle import tvm_library_directories

    with TrackerClient(address) as client:
        before = len(client.devices(KEY))
    options = ["--tracker", str(address), "--key", KEY, "--port", str(port)]
    options += ["--port-end", str(port + 1)]
    environment = dict(os.environ)
    if kind == SERVERS[0]:
        command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", HOST, *options]
        command += ["--custom-addr", HOST]
    else:
        runtime, ffi = tvm_library_directories()
        environment["LD_LIBRARY_PATH"] = f"{runtime}:{ffi}"
        once = shlex.join([str(directory / "server"), *options, "--work-directory", str(directory)])
        command = ["sh", "-c", f"while :; do {once}; sleep 1; done"]
    with (directory / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with TrackerClient(address) as client:
            if len(client.devices(KEY)) > before:
                return server
        time.sleep(0.05)
    raise SystemExit(f"the server did not start: {(directory / 'server.log').read_text()[-300:]}")


@contextlib.contextmanager
def open_rig(kind: str, kernels: dict[str, Path], directory: Path) -> Iterator[Rig]:
    """Yield a fresh rig with a server of this kind; everything ends with it."""
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.core.tracker import TrackerAddress
    from tvm_mnas.devices.farm.farm import open_farm
    from tvm_mnas.devices.servers.local_main import free_port

    address, port = TrackerAddress(HOST, free_port(HOST)), free_port(HOST)
    profile: DeviceProfile = DeviceProfile(
        key=KEY, target='{"kind": "llvm", "num-cores": 1}', tracker=address
    )
    tracker = start_tracker(address)
    server = None
    try:
        server = start_server(kind, address, port, directory)
        with open_farm(profile, work_directory=directory / "farm") as farm:
            rig = Rig(address, port, farm, kernels, tracker, server)
            yield rig
            tracker = rig.tracker
    finally:
        tracker.kill()
        tracker.wait()
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def survives(
    kind: str,
    fault: Callable[[Rig], object],
    kernels: dict[str, Path],
    directory: Path,
    within_s: float,
) -> float | None:
    """Return the seconds until a good kernel is measured again after `fault`, None if it is not `within_s`."""
    with open_rig(kind, kernels, directory) as rig:
        if not rig.measure("good"):
            raise SystemExit(f"{kind}: no kernel could be measured before the fault")
        kept = fault(rig)  # a connection stays open until this returns
        began = time.monotonic()
        while time.monotonic() < began + within_s:
            if rig.measure("good"):
                return time.monotonic() - began
            time.sleep(0.2)
        del kept
    return None


def main() -> int:
    """Run the benchmark and print what it found; return the exit code."""
    from tvm_mnas.devices.servers.bundle import ARCHITECTURES, compile_server, find_compiler

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--within", type=float, default=30.0, help="seconds to come back in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="device-faults-") as scratch:
        directory = Path(scratch)
        compile_server(find_compiler(ARCHITECTURES[os.uname().machine]), directory / "server")
        kernels = compile_kernels(directory)
        for name, fault in FAULTS.items():
            found = {
                kind: survives(kind, fault, kernels, directory, arguments.within)
                for kind in SERVERS
            }
            rows.append({"fault": name, **found})
            print(rows[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(rows))
        return 0
    print(f"| fault | {' | '.join(SERVERS)} |\n| --- | ---: | ---: |")
    for row in rows:
        cells = [row[kind] for kind in SERVERS]
        shown = [
            f"usable after {cell:.1f} s"
            if isinstance(cell, float)
            else f"not within {arguments.within:g} s"
            for cell in cells
        ]
        print(f"| {row['fault']} | {' | '.join(shown)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
