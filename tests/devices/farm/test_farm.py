"""Leases on a real tracker and server: deadlines, deaths of every process, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tvm_mnas.devices.core.cores import available_cores
from tvm_mnas.devices.core.host import reserved_core
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.channel import WorkerStatus
from tvm_mnas.devices.farm.farm import Farm, open_farm
from tvm_mnas.devices.farm.runner import measure_kernel
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.errors import LeaseTimeoutError, TrackerError
from tvm_mnas.processes import Spawner, kill_group

ARGUMENTS = [("float32", (8, 8)), ("float32", (8, 8))]
QUICK = TimingSettings(repeat=2, number=1, min_repeat_ms=1, warmup=0, attempts=1)
HANG_S = 60
"""What takes this long will never come."""

ProcessesOf = Callable[[Path], list[psutil.Process]]


def works(farm: Farm, kernel: Path) -> None:
    """Fail unless the farm measures a good kernel at the first try, however it has to recover for that."""
    samples = measure_kernel(
        farm, kernel, ARGUMENTS, timing=QUICK, deadline_s=HANG_S, lease_deadline_s=HANG_S
    )
    assert isinstance(samples, list), samples
    assert len(samples) == QUICK.repeat
    assert min(samples) > 0


def service(farm: Farm, name: str) -> psutil.Process:
    assert farm._services is not None
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        # Killed, it is listed until its replacement is.
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(farm._services.pids()[name])
    pytest.fail(f"no {name} came back")


def serving(farm: Farm) -> list[psutil.Process]:
    """Return the server's listener and its session's child, once a restart under way is over."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        with contextlib.suppress(psutil.Error):
            found = service(farm, "server").children(recursive=True)
            if len(found) == 2 and found[1].ppid() == found[0].pid:
                return found
        with contextlib.suppress(LeaseTimeoutError), farm.lease(deadline_s=5):
            pass
    pytest.fail("the server serves no session")


def test_the_device_is_listed_and_tells_what_it_is(farm: Farm) -> None:
    (device,) = farm.devices()
    assert device.key == "local"
    facts = farm.fingerprint().to_dict()
    assert facts["machine"] == os.uname().machine
    assert facts["tvm"] != "unknown"
    assert len(farm.fingerprint().digest) == 12
    assert farm.devices()[0].free is False  # its session is kept warm


def test_the_server_runs_on_the_profiles_core_alone(farm: Farm, profile: DeviceProfile) -> None:
    server = service(farm, "server")
    assert {tuple(p.cpu_affinity()) for p in [server, *server.children(recursive=True)]} == {
        (profile.core,)
    }
    assert server.environ()["TVM_NUM_THREADS"] == "1"
    assert server.environ()["TVM_BIND_THREADS"] == "0"


def test_everything_listens_on_loopback_only(farm: Farm) -> None:
    listening = [
        connection.laddr
        for name in ("tracker", "server")
        for process in [service(farm, name), *service(farm, name).children(recursive=True)]
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_lease_ends_at_its_deadline_when_no_device_is_free(farm: Farm) -> None:
    # Without a deadline it would wait for a lease that ends only when it does.
    with farm.lease(hold_s=600):
        started = time.monotonic()
        with pytest.raises(LeaseTimeoutError, match=r"within 0\.5 s"), farm.lease(deadline_s=0.5):
            pytest.fail("a second lease of one device")
        assert time.monotonic() - started >= 0.5


def test_a_lease_passes_to_the_next_who_waits(farm: Farm) -> None:
    events: list[str] = []

    def wait() -> None:
        events.append("asks")
        with farm.lease(deadline_s=HANG_S):
            events.append("has it")

    with farm.lease():
        thread = threading.Thread(target=wait)
        thread.start()
        # Time in which a lease of a device that is taken might be given.
        time.sleep(0.3)
        while not events:
            time.sleep(0.01)
        events.append("is given back")
    thread.join(timeout=HANG_S)
    assert events == ["asks", "is given back", "has it"]


def test_leases_are_given_in_turn(farm: Farm) -> None:
    served: list[int] = []

    def take(number: int, times: int) -> None:
        for _ in range(times):
            with farm.lease(deadline_s=HANG_S):
                served.append(number)

    greedy = threading.Thread(target=take, args=(0, 200))
    greedy.start()
    patient = [threading.Thread(target=take, args=(number, 1)) for number in (1, 2)]
    for thread in patient:
        thread.start()
    for thread in (greedy, *patient):
        thread.join(HANG_S)
    assert sorted(served) == [0] * 200 + [1, 2]
    # Whoever comes while another holds the only device is next, or the one after.
    assert all(served.index(number) < 150 for number in (1, 2))


@pytest.mark.parametrize("name", ["server", "tracker"])
def test_a_service_killed_while_idle_comes_back(
    farm: Farm, kernels: dict[str, Path], name: str
) -> None:
    works(farm, kernels["good"])
    victim = service(farm, name)
    victim.kill()
    # The session that is open may serve one more measurement; the next has to find a new service.
    end = time.monotonic() + HANG_S
    while service(farm, name).pid == victim.pid:
        assert time.monotonic() < end
        time.sleep(0.01)
    works(farm, kernels["good"])


def test_every_process_of_the_server_may_be_killed(farm: Farm, kernels: dict[str, Path]) -> None:
    works(farm, kernels["good"])
    # First the session's child, then the listener, with which a session's child would end too.
    for index in (1, 0):
        serving(farm)[index].kill()
        works(farm, kernels["good"])


def test_a_server_that_no_longer_answers_is_replaced(farm: Farm, kernels: dict[str, Path]) -> None:
    works(farm, kernels["good"])
    # Stopped, not dead: it stays registered at the tracker, which is what a hung server looks like.
    for process in serving(farm):
        process.suspend()
    works(farm, kernels["good"])


def test_a_server_killed_during_a_measurement_costs_at_most_that_one(
    farm: Farm, kernels: dict[str, Path]
) -> None:
    future = farm.submit(
        lambda: measure_kernel(
            farm,
            kernels["slow"],
            ARGUMENTS,
            timing=QUICK,
            deadline_s=HANG_S,
            lease_deadline_s=HANG_S,
        )
    )
    time.sleep(0.7)
    service(farm, "server").kill()
    outcome = future.result(timeout=2 * HANG_S)
    assert isinstance(outcome, list)
    assert min(outcome) > 1
    works(farm, kernels["good"])


def test_a_worker_killed_between_leases_is_replaced(farm: Farm, kernels: dict[str, Path]) -> None:
    works(farm, kernels["good"])
    pid = farm._workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    works(farm, kernels["good"])


def test_a_kernel_that_never_returns_ends_at_the_deadline(
    farm: Farm, kernels: dict[str, Path]
) -> None:
    # The device itself would end the session much later than pytest the test.
    with farm.lease(hold_s=600) as lease:
        started = time.monotonic()
        reply = lease.time_kernel(kernels["hang"], ARGUMENTS, QUICK, deadline_s=1)
        assert time.monotonic() - started >= 1
    assert reply.status is WorkerStatus.HUNG
    works(farm, kernels["good"])


def test_closing_leaves_no_process_and_no_session_directory(
    profile: DeviceProfile,
    kernels: dict[str, Path],
    tmp_path: Path,
    processes_of: ProcessesOf,
) -> None:
    with open_farm(profile, work_directory=tmp_path / "farm") as farm:
        works(farm, kernels["good"])
        assert len(processes_of(tmp_path)) == 5  # tracker, server, listener, session, worker
    assert processes_of(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "farm").iterdir()) == [
        "server.log",
        "tracker.log",
        "worker.log",
    ]


def test_kill_9_of_the_parent_leaves_no_process(
    kernels: dict[str, Path], tmp_path: Path, processes_of: ProcessesOf
) -> None:
    program = f"""
import threading, time
from pathlib import Path
from tvm_mnas.devices.farm.farm import open_farm
from tvm_mnas.devices.core.profile import TimingSettings, read_profile
from tvm_mnas.devices.farm.runner import measure_kernel

ARGUMENTS = {ARGUMENTS!r}
QUICK = {QUICK!r}

def work():  # the farm is opened in a thread that ends: its processes must not end with it
    global farm
    farm = open_farm(read_profile("local"), work_directory=Path({str(tmp_path / "farm")!r}))

thread = threading.Thread(target=work)
thread.start()
thread.join()
outcome = measure_kernel(farm, Path({str(kernels["good"])!r}), ARGUMENTS, timing=QUICK,
                         deadline_s={HANG_S}, lease_deadline_s={HANG_S})
print("ready" if isinstance(outcome, list) else outcome, flush=True)
measure_kernel(farm, Path({str(kernels["hang"])!r}), ARGUMENTS, timing=QUICK,
               deadline_s=600, lease_deadline_s={HANG_S})
"""
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == b"ready"
    time.sleep(0.5)  # now the hanging kernel runs
    assert len(processes_of(tmp_path)) == 5
    parent.kill()
    parent.wait()
    # They serve a kernel that never ends: by themselves they would be there then.
    end = time.monotonic() + HANG_S
    while processes_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []


def test_an_idle_foreign_device_is_given_back_and_a_stock_server_will_do(
    kernels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of rpc/README.md: TVM's own tracker and server, started by hand."""
    monkeypatch.setattr("tvm_mnas.devices.farm.farm._IDLE_RELEASE_S", 0.5)
    address = TrackerAddress("127.0.0.1", free_port("127.0.0.1"))
    port = free_port("127.0.0.1")
    tracker = ["rpc_tracker", "--host", address.host, "--port", str(address.port)]
    tracker += ["--port-end", str(address.port + 1)]
    server = ["rpc_server", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    server += ["--tracker", str(address), "--key", "board", "--custom-addr", "127.0.0.1"]
    spawner = Spawner()
    started = [
        spawner.spawn_module(
            f"tvm.exec.{name}", rest, directory=tmp_path, log=tmp_path / name, environment={}
        )
        for name, *rest in (tracker, server)
    ]
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(TrackerError), TrackerClient(address) as client:
                if client.devices("board"):
                    break
            time.sleep(0.2)
        board = DeviceProfile(
            key="board", target='{"kind": "llvm", "num-cores": 1}', tracker=address
        )
        with open_farm(board, work_directory=tmp_path / "farm") as farm:
            works(farm, kernels["good"])
            assert farm.fingerprint().to_dict() == {"server": f"{address}/board"}
            assert farm.devices()[0].free is False
            end = time.monotonic() + HANG_S
            while not farm.devices()[0].free and time.monotonic() < end:
                time.sleep(0.1)
            assert farm.devices()[0].free is True
            works(farm, kernels["good"])
    finally:
        for process in started:
            kill_group(process)
        spawner.close()


def test_a_reserved_core_is_left_by_every_thread_and_taken_up_again(profile: DeviceProfile) -> None:
    before = available_cores()
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    with reserved_core(profile.core) as left:
        assert set(left) == set(before) - {profile.core} or len(before) == 1
        assert other.native_id is not None
        for thread in (0, other.native_id):
            assert tuple(sorted(os.sched_getaffinity(thread))) == left
    assert available_cores() == tuple(sorted(os.sched_getaffinity(other.native_id))) == before
    stop.set()
    other.join()
    with reserved_core(None) as left:
        assert left == before
