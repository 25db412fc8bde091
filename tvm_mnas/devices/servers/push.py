"""Puts the device server on a device and keeps it there: installed, started, its ports forwarded, and started again.

The device runs it in a loop of its own, so that a server that dies is back in a second; the loop ends when our
connection does. We watch the connection and make it anew, with a growing pause, until we are stopped.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.servers.bundle import kept_bundle
from tvm_mnas.devices.servers.reach import Reach, copy_there, forward_ports, run_there
from tvm_mnas.errors import DeviceError, DeviceLostError, TrackerError
from tvm_mnas.processes import tail

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between attempts to connect the pause doubles up to this."""
REGISTERED_S = 30.0
"""How long a server may take from its start until the tracker lists it."""
_POLL_S = 0.1

# The loop outlives the server, `cat` tells when the connection is gone, and then both end. A server that cannot
# start at all is tried once a second.
_LOOP = """cd {directory} || exit 1
(
  server=
  trap 'kill $server 2>/dev/null; exit 0' TERM
  while :; do ./run {options} </dev/null & server=$!; wait $server; sleep 1; done
) &
loop=$!
cat >/dev/null
kill $loop
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a server on a device is started with: `port` is the same there and here."""

    key: str
    tracker: TrackerAddress
    port: int
    core: int | None = None

    def options(self) -> list[str]:
        """Return the server's command line."""
        options = ["--tracker", f"127.0.0.1:{self.tracker.port}", "--key", self.key]
        options += ["--port", str(self.port), "--port-end", str(self.port + 1)]
        return options if self.core is None else [*options, "--core", str(self.core)]


def install(reach: Reach, *, cache: Path | None = None) -> str:
    """Return the directory of the server on the device, as a word of its shell; copied there if it is not yet.

    Raises:
        BundleError: if there is no bundle for its architecture, or none can be built here.
        DeviceLostError: if the device cannot be reached, or cannot take the files.
    """
    archive = kept_bundle(run_there(reach, "uname -m"), cache=cache)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    home = reach.directory
    there = f"{home}/{digest}"
    if run_there(reach, f"test -x {there}/run && echo installed || mkdir -p {home}") != "installed":
        copy_there(reach, archive, f"{there}.tgz")
        # Whole or not there: a connection may break at any moment.
        run_there(
            reach,
            f"cd {home} && rm -rf new-{digest} && mkdir new-{digest} && tar xzf {digest}.tgz -C new-{digest} && "
            f"rm -rf {digest} && mv new-{digest}/tvm-server {digest} && rm -r new-{digest} {digest}.tgz",
        )
    return there


def supervise(
    reach: Reach,
    directory: str,
    service: Service,
    *,
    stop: threading.Event,
    on_state: Callable[[str], None],
) -> None:
    """Keep the server in `directory` on the device running and registered until `stop` is set.

    `on_state` gets a line whenever something changes. A connection that breaks is made again; only what can never
    work ends this.

    Raises:
        TrackerError: if no tracker answers at the start.
    """
    TrackerClient(service.tracker).close()
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        began = time.monotonic()
        try:
            _serve_once(reach, directory, service, stop=stop, on_state=on_state)
        except DeviceError as error:
            on_state(str(error))
        if stop.is_set():
            return
        if time.monotonic() - began > 2 * LONGEST_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        on_state(f"connecting again in {pause_s:g} s")
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _serve_once(
    reach: Reach,
    directory: str,
    service: Service,
    *,
    stop: threading.Event,
    on_state: Callable[[str], None],
) -> None:
    forward_ports(reach, service.tracker, service.port)
    text = _LOOP.format(directory=directory, options=shlex.join(service.options()))
    with tempfile.TemporaryDirectory(prefix="tvm-mnas-push-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                reach.serving(text, service.tracker, service.port),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + REGISTERED_S
            while not _registered(service):
                if stop.is_set():
                    return
                if process.poll() is not None:
                    raise DeviceLostError(f"{reach.name} ended: {tail(log)}")
                if time.monotonic() > end:
                    raise DeviceLostError(
                        f"the server did not register within {REGISTERED_S:g} s: {tail(log)}"
                    )
                stop.wait(_POLL_S)
            on_state(
                f"{service.key} serves at port {service.port} of tracker {service.tracker}, by {reach.name}"
            )
            while process.poll() is None and not stop.wait(_POLL_S):
                pass
            if not stop.is_set():
                on_state(f"{reach.name} ended: {tail(log)}")
        finally:
            _end(process)


def _registered(service: Service) -> bool:
    with suppress(TrackerError), TrackerClient(service.tracker) as tracker:
        return any(device.port == service.port for device in tracker.devices(service.key))
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the connection so that the loop there ends, and wait for it a little."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
