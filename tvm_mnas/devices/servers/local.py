"""The tracker and the RPC server of a local farm: started, watched, restarted and ended.

The server runs on this machine, or for another architecture's code in an emulator of it.
Their logs lie in the farm's directory. They listen on 127.0.0.1 only: whoever reaches them runs code as us.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from pathlib import Path

from tvm_mnas.devices.core.profile import DeviceProfile
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.servers.bundle import unpacked_bundle
from tvm_mnas.devices.servers.emulator import find_emulator
from tvm_mnas.devices.servers.local_main import free_port, runtime_environment
from tvm_mnas.errors import TrackerError
from tvm_mnas.processes import Spawner, kill_group, tail

_HOST = "127.0.0.1"
_POLL_S = 0.05
_START_DEADLINE_S = 60.0
_RESTART_PAUSE_S = 1.0
"""A service that dies at once every time must not eat the core that is measured on."""


class LocalServices:
    """One tracker and one device server on loopback."""

    def __init__(self, profile: DeviceProfile, spawner: Spawner, *, directory: Path) -> None:
        """Prepare; `start` starts. Sessions' files are in `temporary`."""
        self._profile = profile
        self._spawner = spawner
        self._directory = directory
        self.temporary = directory.resolve() / "tmp"
        self._address = TrackerAddress(_HOST, free_port(_HOST))
        self._bundle: Path | None = None
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, float] = {}
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="tvm-mnas-services", daemon=True)

    @property
    def shared(self) -> str | None:
        """A directory whose files the device reads by their paths; an emulated one's server takes uploads alone."""
        return None if self._profile.emulated else str(self.temporary)

    def start(self) -> TrackerAddress:
        """Start both and return the tracker's address once the device is registered.

        Raises TrackerError where they do not start, BundleError where what an emulated device needs is not there.
        """
        if self._profile.emulated:
            find_emulator(self._profile.architecture)
            self._bundle = unpacked_bundle(self._profile.architecture)
        self.temporary.mkdir(exist_ok=True)
        for name in ("tracker", "server"):
            self._start(name)
        self._watcher.start()
        end = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < end:
            with contextlib.suppress(TrackerError), TrackerClient(self._address) as tracker:
                if tracker.devices(self._profile.key):
                    return self._address
            time.sleep(_POLL_S)
        raise TrackerError(
            f"the local tracker and server did not start within {_START_DEADLINE_S:g} s; see {self.diagnosis()}"
        )

    def recover(self) -> None:
        """Replace the process that listens for sessions; whatever runs on the device ends with it."""
        with self._lock:
            server = self._processes.get("server")
            if server is not None and server.poll() is None:
                server.send_signal(signal.SIGUSR1)

    def diagnosis(self) -> str:
        """Return where the logs are and what they say last."""
        return "; ".join(
            f"{log}: {tail(log)}" for log in (self._log("tracker"), self._log("server"))
        )

    def pids(self) -> dict[str, int]:
        """Return the process ids by service, for tests and for `tvm-mnas device list`."""
        with self._lock:
            return {name: process.pid for name, process in self._processes.items()}

    def close(self) -> None:
        """End both."""
        self._closing.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._lock:
            for process in self._processes.values():
                kill_group(process)
            self._processes.clear()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _start(self, name: str) -> None:
        module = "tvm_mnas.devices.servers.local_main"
        arguments = ["--host", _HOST, "--port", str(self._address.port)]
        environment = {**runtime_environment(), "TMPDIR": str(self.temporary)}
        if name == "server":
            arguments += ["--key", self._profile.key]
            if self._profile.core is not None:
                arguments += ["--core", str(self._profile.core)]
            # TVM's thread pool would bind its threads to cores of its own choice.
            environment |= {
                "TVM_NUM_THREADS": str(self._profile.threads),
                "OMP_NUM_THREADS": str(self._profile.threads),
                "TVM_BIND_THREADS": "0",
            }
        if name == "server" and self._bundle is not None:
            module = "tvm_mnas.devices.servers.emulated_main"
            arguments += ["--architecture", self._profile.architecture]
            arguments += ["--bundle", str(self._bundle)]
        else:
            arguments.insert(0, name)
        process = self._spawner.spawn_module(
            module,
            arguments,
            directory=self._directory,
            log=self._log(name),
            environment=environment,
        )
        with self._lock:
            self._processes[name] = process
            self._started_at[name] = time.monotonic()

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_S):
            with self._lock:
                dead = [
                    name for name, process in self._processes.items() if process.poll() is not None
                ]
            for name in dead:
                lived_s = time.monotonic() - self._started_at[name]
                if lived_s < _RESTART_PAUSE_S and self._closing.wait(_RESTART_PAUSE_S):
                    return
                kill_group(self._processes[name])  # what it may have left behind in its session
                with contextlib.suppress(
                    OSError
                ):  # out of processes or memory: tried again next time
                    self._start(name)
                if name == "tracker":
                    # The server would find the new tracker by itself, after 5 s.
                    self.recover()
