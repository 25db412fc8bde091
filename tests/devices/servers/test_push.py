"""`device push` through a stand-in for ssh that runs everything on this machine, in a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.farm import open_farm
from tvm_mnas.devices.farm.runner import measure_kernel
from tvm_mnas.devices.servers.bundle import ARCHITECTURES
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.devices.servers.push import Service, install, supervise
from tvm_mnas.devices.servers.reach import Ssh
from tvm_mnas.errors import TrackerError

HOST = "127.0.0.1"
KEY = "pushed"
QUICK = TimingSettings(repeat=2, number=1, min_repeat_ms=1, warmup=0, max_spread=1.0, attempts=1)
ARGUMENTS = [("float32", (8, 8))]
HANG_S = 60.0
"""What takes this long will never come."""

pytestmark = pytest.mark.skipif(
    os.uname().machine not in ARCHITECTURES, reason="no bundle for this machine's architecture"
)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in for ssh on the path; return the home of the board that it reaches."""
    home = tmp_path / "board"
    home.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nfor last; do :; done\nHOME={home} exec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return home


@pytest.fixture
def tracker() -> Iterator[TrackerAddress]:
    address = TrackerAddress(HOST, free_port(HOST))
    command = [
        sys.executable,
        "-m",
        "tvm_mnas.devices.servers.local_main",
        "tracker",
        "--port",
        str(address.port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + HANG_S
        while True:
            try:
                TrackerClient(address).close()
                break
            except TrackerError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait(10)


def servers_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) and "--key" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_from_push_to_the_first_result_and_through_a_death(
    board: Path, tracker: TrackerAddress, kernels: dict[str, Path], tmp_path: Path
) -> None:
    reach = Ssh("board")
    directory = install(reach, cache=tmp_path / "cache")
    service = Service(key=KEY, tracker=tracker, port=free_port(HOST))
    stop = threading.Event()
    lines: list[str] = []
    supervisor = threading.Thread(
        target=supervise,
        args=(reach, directory, service),
        kwargs={"stop": stop, "on_state": lines.append},
    )
    supervisor.start()

    def listed() -> bool:
        with TrackerClient(tracker) as client:
            return bool(client.devices(KEY))

    profile = DeviceProfile(
        key=KEY, target='{"kind": "llvm", "num-cores": 1}', tracker=tracker, timing=QUICK
    )

    def measured() -> list[float] | str:
        with open_farm(profile, work_directory=tmp_path / "farm") as farm:
            return measure_kernel(
                farm,
                kernels["good"],
                ARGUMENTS,
                timing=QUICK,
                deadline_s=HANG_S,
                lease_deadline_s=HANG_S,
            )

    try:
        wait_for(listed)
        assert not isinstance(measured(), str)
        (server,) = servers_of(board)
        server.send_signal(signal.SIGKILL)
        wait_for(lambda: not server.is_running() and listed())
        assert not isinstance(measured(), str)
    finally:
        stop.set()
        supervisor.join(HANG_S)
    assert not supervisor.is_alive()
    assert any("serves at port" in line for line in lines), lines
    wait_for(lambda: not servers_of(board))


def test_a_connection_that_breaks_is_made_again(
    board: Path, tracker: TrackerAddress, tmp_path: Path
) -> None:
    reach = Ssh("board")
    service = Service(key=KEY, tracker=tracker, port=free_port(HOST))
    lines: list[str] = []
    stop = threading.Event()
    ran = threading.Event()

    def note(line: str) -> None:
        lines.append(line)
        if len(lines) >= 4:
            ran.set()
            stop.set()

    # Not installed: the loop there ends at once, each time.
    supervise(reach, str(tmp_path / "nothing"), service, stop=stop, on_state=note)
    assert ran.is_set()
    assert lines[1] == "connecting again in 1 s"
    assert lines[3] == "connecting again in 2 s"


def test_without_a_tracker_nothing_is_started(board: Path, tmp_path: Path) -> None:
    service = Service(key=KEY, tracker=TrackerAddress(HOST, free_port(HOST)), port=free_port(HOST))
    with pytest.raises(TrackerError, match="rpc_tracker"):
        supervise(Ssh("board"), "x", service, stop=threading.Event(), on_state=lambda line: None)
