"""Several devices of one profile behind a real tracker, some of which fail: nothing is lost and nobody waits for ever.

The devices are our own server in C, the one that goes onto a board.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_mnas.devices.core.latency import change_text
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.core.tracker import DeviceStatus, TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.farm import Farm, open_farm
from tvm_mnas.devices.farm.reference import Reference
from tvm_mnas.devices.farm.runner import measure_kernel
from tvm_mnas.devices.farm.timing import measure
from tvm_mnas.devices.servers.bundle import (
    ARCHITECTURES,
    compile_server,
    find_compiler,
    tvm_library_directories,
)
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.errors import DeviceAddressError, LeaseTimeoutError, TrackerError
from tvm_mnas.processes import kill_group

HOST = "127.0.0.1"
KEY = "board"
ARGUMENTS = [("float32", (8, 8))]
ONCE = TimingSettings(repeat=1, number=1, min_repeat_ms=0, warmup=0, max_spread=1.0, attempts=1)
DEADLINE_S = 5.0
HANG_S = 60.0
"""What takes this long will never come."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.uname().machine not in ARCHITECTURES, reason="no bundle for this machine's architecture"
    ),
]


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("server") / "server"
    compile_server(find_compiler(ARCHITECTURES[os.uname().machine]), path)
    return path


@I.ir_module
class Doubler:
    @R.function
    def main(x: R.Tensor((4,), "float32")):
        with R.dataflow():
            doubled = R.add(x, x)
            R.output(doubled)
        return doubled


class Site:
    """A tracker and servers that register there, to be killed and started again."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.address = TrackerAddress(HOST, free_port(HOST))
        self._binary = binary
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self.tracker = self.start_tracker()

    def start_tracker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tvm_mnas.devices.servers.local_main", "tracker"]
        process = subprocess.Popen(
            [*command, "--port", str(self.address.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        self._until(lambda: True)
        return process

    def start_server(self, *, nap: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a server; its reference kernel sleeps for as many microseconds as the file `nap` says."""
        before = len(self.listed())
        runtime, ffi = tvm_library_directories()
        options = ["--tracker", str(self.address), "--key", KEY, "--port", str(free_port(HOST))]
        with (self._directory / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [self._binary, *options, "--work-directory", str(self._directory)],
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": f"{runtime}:{ffi}",
                    "NAP_FILE": str(nap or os.devnull),
                },
                stderr=log,
            )
        self._processes.append(process)
        self._until(lambda: len(self.listed()) == before + 1)
        return process

    def register_silent(self) -> None:
        """Register a device that accepts connections and never says a word."""
        listener = socket.create_server((HOST, 0))
        self._sockets.append(listener)
        self.register(listener.getsockname()[1])

    def register(self, port: int) -> None:
        """Register a device at `port`, whatever is there."""
        tracker = socket.create_connection((HOST, self.address.port))
        tracker.sendall(struct.pack("<i", 0x2F271))
        tracker.recv(4)
        for message in (
            [5, {"key": f"server:{KEY}", "addr": [HOST, port]}],
            [3, KEY, [port, f"{KEY}:0.1"], None],
        ):
            body = json.dumps(message).encode()
            tracker.sendall(struct.pack("<i", len(body)) + body)
            tracker.recv(1 << 16)
        self._sockets.append(tracker)

    def listed(self) -> list[int]:
        with TrackerClient(self.address) as client:
            return [device.port for device in client.devices(KEY)]

    def profile(self) -> DeviceProfile:
        return DeviceProfile(
            key=KEY, target='{"kind": "llvm", "num-cores": 1}', tracker=self.address
        )

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + HANG_S
        while time.monotonic() < end:
            with contextlib.suppress(TrackerError):
                TrackerClient(self.address).close()
                if condition():
                    return
            time.sleep(0.02)
        pytest.fail("the site did not come up")

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()
        for process in self._processes:
            process.kill()
            process.wait(10)


@pytest.fixture
def site(binary: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(binary, tmp_path)
    try:
        yield made
    finally:
        made.close()


def measured(farm: Farm, kernel: Path) -> list[float] | str:
    return measure_kernel(
        farm, kernel, ARGUMENTS, timing=ONCE, deadline_s=DEADLINE_S, lease_deadline_s=HANG_S
    )


def usable(farm: Farm, kernel: Path) -> None:
    """Fail unless a good kernel is measured again, after whatever recovery takes."""
    end = time.monotonic() + HANG_S
    while isinstance(outcome := measured(farm, kernel), str):
        assert time.monotonic() < end, outcome


def reference(kernels: dict[str, Path], *, attempts: int = 1) -> Reference:
    timing = TimingSettings(repeat=1, number=1, min_repeat_ms=0, warmup=0, attempts=attempts)
    return Reference(path=kernels["reference"], arguments=(("float32", (8,)),), timing=timing)


@pytest.mark.parametrize("fault", ["crash", "hang", "error"])
def test_a_bad_kernel_costs_itself_and_the_device_is_usable_again(
    site: Site, kernels: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        usable(farm, kernels["good"])
        outcome = measured(farm, kernels[fault])
        assert isinstance(outcome, str)
        assert outcome.startswith({"crash": "crash", "hang": "timeout", "error": "error"}[fault])
        usable(farm, kernels["good"])


def test_a_library_for_another_machine_is_an_error_and_no_more(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    library = bytearray(kernels["good"].read_bytes())
    library[18:20] = struct.pack("<H", 0xF3)  # e_machine: RISC-V
    alien = tmp_path / "alien.so"
    alien.write_bytes(library)
    site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        outcome = measured(farm, alien)
        assert isinstance(outcome, str)
        assert outcome.startswith("error")
        usable(farm, kernels["good"])


def test_a_server_killed_at_work_costs_one_retry_elsewhere(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    servers = [site.start_server(), site.start_server()]
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        usable(farm, kernels["good"])
        outcomes: list[list[float] | str] = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(measured(farm, kernels["slow"])))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        servers[0].send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(2 * HANG_S)
        assert [type(outcome) for outcome in outcomes] == [list, list], outcomes
        usable(farm, kernels["good"])


def test_a_server_killed_idle_is_started_again_and_found(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    server = site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        usable(farm, kernels["good"])
        server.kill()
        server.wait(10)
        site.start_server()
        usable(farm, kernels["good"])


def test_a_restarted_tracker_is_found_again(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        usable(farm, kernels["good"])
        site.tracker.kill()
        site.tracker.wait(10)
        site.tracker = site.start_tracker()
        usable(farm, kernels["good"])


def test_a_silent_device_is_left_alone_while_its_twin_works(
    site: Site, kernels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvm_mnas.devices.farm.farm._CONNECT_S", 1.0)
    monkeypatch.setattr("tvm_mnas.devices.farm.farm._ANSWER_SLACK_S", 1.0)
    site.register_silent()
    site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        assert farm.capacity == 2
        for _ in range(4):
            assert isinstance(measured(farm, kernels["good"]), list)


def test_a_tracker_and_a_device_at_an_ipv6_address(
    kernels: dict[str, Path], tmp_path: Path
) -> None:
    """With TVM's own tracker and server: ours is for IPv4."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    script = """
import sys, time
from tvm import rpc
from tvm.rpc.tracker import Tracker
tracker = Tracker(host="::1", port=int(sys.argv[1]), port_end=int(sys.argv[1]) + 1)
port = int(sys.argv[2])
server = rpc.Server(
    host="::1", port=port, port_end=port + 1, key="Board.6", tracker_addr=("::1", tracker.port)
)
time.sleep(300)
"""
    tracker = TrackerAddress("::1", free_port(HOST))
    started = subprocess.Popen(
        [sys.executable, "-c", script, str(tracker.port), str(free_port(HOST))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + HANG_S
        devices: list[DeviceStatus] = []
        while not devices and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(TrackerError), TrackerClient(tracker) as client:
                devices = client.devices("Board.6")
        assert devices, "nothing was registered"
        profile = DeviceProfile(
            key="Board.6", target='{"kind": "llvm", "num-cores": 1}', tracker=tracker
        )
        with open_farm(profile, work_directory=tmp_path / "farm") as farm:
            usable(farm, kernels["good"])
            with farm.lease(deadline_s=HANG_S) as lease:
                assert lease.server == f"[::1]:{devices[0].port}"
    finally:
        kill_group(started)


def lease_one(site: Site, directory: Path, checked: Reference | None) -> None:
    """Open a farm and lease; with a reference kernel nothing wrong is left for the lease."""
    with open_farm(site.profile(), work_directory=directory, reference=checked) as farm:
        assert checked is None, "a search would train now"
        with farm.lease(deadline_s=HANG_S):
            pass


@pytest.mark.parametrize("surveyed", [False, True])
@pytest.mark.parametrize("how", ["refused", "no answer"])
def test_an_address_that_cannot_be_reached_is_named_within_15_s(
    site: Site, kernels: dict[str, Path], tmp_path: Path, how: str, surveyed: bool
) -> None:
    with contextlib.ExitStack() as stack:
        port = free_port(HOST)
        if how == "no answer":
            # A listener whose queue is full: further connections wait for ever, as behind a firewall.
            full = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
            port = full.getsockname()[1]
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((HOST, port))
        site.register(port)
        began = time.monotonic()
        with pytest.raises(DeviceAddressError, match="--custom-addr") as caught:
            lease_one(site, tmp_path / "farm", reference(kernels) if surveyed else None)
        assert time.monotonic() - began < 15
    message = str(caught.value)
    assert f"lists it at {HOST}:{port}," in message
    assert {"refused": "refused", "no answer": "no answer"}[how] in message
    assert not caught.value.retried


def test_an_address_that_cannot_be_reached_does_not_keep_its_twin_from_work(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    site.register(free_port(HOST))
    site.start_server()
    with open_farm(site.profile(), work_directory=tmp_path / "farm") as farm:
        assert farm.capacity == 2
        for _ in range(4):
            assert isinstance(measured(farm, kernels["good"]), list)


@pytest.mark.timed
def test_a_device_a_hundred_times_slower_than_its_twin_does_not_measure(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    """The slow one is the first that the tracker gives; the least of three naps counts, so noise makes no other."""
    slow, usual = tmp_path / "slow", tmp_path / "usual"
    slow.write_text("500000")
    usual.write_text("5000")
    site.start_server(nap=slow)
    (slow_port,) = site.listed()
    site.start_server(nap=usual)
    site.start_server(nap=usual)
    twins = {f"{HOST}:{port}" for port in site.listed() if port != slow_port}
    warnings: list[str] = []
    served: list[str] = []
    with open_farm(
        site.profile(),
        work_directory=tmp_path / "farm",
        reference=reference(kernels, attempts=3),
        on_warning=warnings.append,
    ) as farm:
        assert farm.capacity == 3

        def work() -> list[float] | str:
            with farm.lease(deadline_s=HANG_S) as lease:
                served.append(lease.server)
            return measured(farm, kernels["good"])

        futures = [farm.submit(work) for _ in range(6)]
        assert all(isinstance(future.result(), list) for future in futures)
    assert set(served) <= twins
    (line,) = warnings
    assert "taken back" not in line
    assert f"{HOST}:{slow_port}: is left alone: its reference kernel takes 5" in line
    times = float(line.partition(" ms, ")[2].partition(" times")[0])
    assert 20 < times < 150


@pytest.mark.timed
def test_where_all_that_is_left_is_too_slow_the_reason_is_told(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text("50000")
    twin = site.start_server()
    site.start_server(nap=slow)
    with open_farm(
        site.profile(), work_directory=tmp_path / "farm", reference=reference(kernels)
    ) as farm:
        twin.kill()
        twin.wait(10)
        with (
            pytest.raises(LeaseTimeoutError, match="is left alone: its reference kernel takes 5"),
            farm.lease(deadline_s=4),
        ):
            pass


@pytest.mark.timed
def test_a_device_whose_speed_moves_is_measured_again_flagged_and_named(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    nap = tmp_path / "nap"
    nap.write_text("40000")
    site.start_server(nap=nap)
    network = tmp_path / "net.so"
    tvm.compile(Doubler, target="llvm").export_library(str(network))
    warnings: list[str] = []
    # Half as long again is no sleep's inaccuracy.
    timing = TimingSettings(repeat=3, min_repeat_ms=1, warmup=0, max_spread=0.5, attempts=2)
    profile = replace(site.profile(), timing=timing)
    with open_farm(
        profile,
        work_directory=tmp_path / "farm",
        reference=reference(kernels),
        on_warning=warnings.append,
    ) as farm:
        steady = measure(network, (4,), farm)
        assert steady.reference_change is not None
        assert abs(steady.reference_change) < 0.5
        assert not steady.drifted
        assert warnings == []
        nap.write_text("120000")
        moved = measure(network, (4,), farm)
        assert moved.drifted
        assert moved.attempts == timing.attempts
        assert moved.reference_change == pytest.approx(2.0, abs=0.5)
        assert moved.reference_ms == pytest.approx(120, abs=20)
        assert moved.warnings == (change_text(moved.reference_change),)
        assert warnings == [
            f"device {KEY}, {HOST}:{site.listed()[0]}: {moved.warnings[0]}; "
            "the latency measured there is flagged"
        ]
        nap.write_text("40000")
        assert measure(network, (4,), farm).warnings == ()
    with open_farm(
        replace(profile, emulated=True),
        work_directory=tmp_path / "emulated",
        reference=reference(kernels),
    ) as farm:
        emulated = measure(network, (4,), farm)
        assert (emulated.reference_ms, emulated.reference_change) == (None, None)
        assert emulated.state_after is None


@pytest.mark.timed
def test_four_devices_measure_more_than_three_times_as_much_as_one(
    site: Site, kernels: dict[str, Path], tmp_path: Path
) -> None:
    """Issue: 3.2 times, of devices that idle for a set time instead of computing."""
    rates = []
    for count in (1, 4):
        while len(site.listed()) < count:
            site.start_server()
        with open_farm(site.profile(), work_directory=tmp_path / f"farm-{count}") as farm:
            assert farm.capacity == count
            warm = [farm.submit(lambda: measured(farm, kernels["nap"])) for _ in range(2 * count)]
            assert all(isinstance(future.result(), list) for future in warm)
            began = time.monotonic()
            futures = [
                farm.submit(lambda: measured(farm, kernels["nap"])) for _ in range(8 * count)
            ]
            assert all(isinstance(future.result(), list) for future in futures)
            rates.append(8 * count / (time.monotonic() - began))
        time.sleep(0.5)
    assert rates[1] / rates[0] >= 3.2, rates
