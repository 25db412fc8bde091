"""Our device server in C: the same results as TVM's own, and it outlives everything that ends that one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm
from tvm import rpc
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.target import Target

from tvm_mnas.devices.core.host import Fingerprint, device_facts
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings, load_profile
from tvm_mnas.devices.core.tracker import DeviceStatus, TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.farm import Farm, open_farm
from tvm_mnas.devices.farm.runner import measure_kernel
from tvm_mnas.devices.farm.timing import measure, run_network
from tvm_mnas.devices.servers.bundle import (
    ARCHITECTURES,
    compile_server,
    find_compiler,
    tvm_library_directories,
)
from tvm_mnas.devices.servers.local_main import EVICT_FUNCTION, FACTS_FUNCTION, free_port
from tvm_mnas.errors import TrackerError

KEY = "board"
HOST = "127.0.0.1"
MAGIC = 0xFF271
MISMATCH = 0xFF273
QUICK = TimingSettings(repeat=3, number=1, min_repeat_ms=1, warmup=1, max_spread=1.0, attempts=1)
ARGUMENTS = [("float32", (8, 8)), ("float32", (8, 8))]
SHAPE = (1, 3, 16, 16)
HANG_S = 60.0
"""What takes this long will never come."""
NEVER_S = 600
"""The server's longest session. Who waited for its end would wait longer than pytest lets a test take."""

pytestmark = pytest.mark.skipif(
    os.uname().machine not in ARCHITECTURES, reason="no bundle for this machine's architecture"
)


@I.ir_module
class Network:
    """Two outputs, one of them of an operation that is no copy."""

    @R.function
    def main(x: R.Tensor((1, 3, 16, 16), "float32")):
        with R.dataflow():
            scores = R.nn.softmax(x, axis=-1)
            doubled = R.add(x, x)
            R.output(scores, doubled)
        return (scores, doubled)


class Rig:
    """A real tracker and our server, each of which a test may kill and start again."""

    def __init__(self, binary: Path, directory: Path, *options: str) -> None:
        self.tracker_address = TrackerAddress(HOST, free_port(HOST))
        self.log = directory / "server.log"
        self.sessions = directory / "sessions"
        self.sessions.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.tracker = self.start_tracker()
        runtime, ffi = tvm_library_directories()
        arguments = ["--tracker", str(self.tracker_address), "--key", KEY, "--port-end", "65535"]
        arguments += ["--port", str(free_port(HOST)), "--work-directory", str(self.sessions)]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                [binary, *arguments, *options],
                env={**os.environ, "LD_LIBRARY_PATH": f"{runtime}:{ffi}"},
                stderr=log,
            )
        self._processes.append(self.server)
        self.device = self.wait_until_free()

    def start_tracker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tvm_mnas.devices.servers.local_main", "tracker"]
        process = subprocess.Popen(
            [*command, "--port", str(self.tracker_address.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        end = time.monotonic() + HANG_S
        while time.monotonic() < end:
            with contextlib.suppress(TrackerError):
                TrackerClient(self.tracker_address).close()
                return process
            time.sleep(0.02)
        pytest.fail("the tracker did not start")

    def wait_until_free(self) -> DeviceStatus:
        end = time.monotonic() + HANG_S
        while time.monotonic() < end:
            assert self.server.poll() is None, self.log.read_text()
            with contextlib.suppress(TrackerError), TrackerClient(self.tracker_address) as tracker:
                for device in tracker.devices(KEY):
                    if device.free:
                        return device
            time.sleep(0.02)
        pytest.fail(f"not free within {HANG_S} s: {self.log.read_text()}")

    def connect(self, *, timeout_s: int = NEVER_S) -> rpc.RPCSession:
        with TrackerClient(self.tracker_address) as tracker:
            grant = tracker.request(KEY, deadline_s=HANG_S)
        return rpc.connect(grant.host, grant.port, grant.match_key, session_timeout=timeout_s)

    def serves(self, kernel: Path) -> None:
        """Fail unless a session runs a good kernel."""
        remote = self.connect()
        remote.upload(bytearray(kernel.read_bytes()), target="good.so")
        remote.load_module("good.so")["main"]()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.server.pid).children()

    def raw(self) -> socket.socket:
        return socket.create_connection((HOST, self.device.port), timeout=HANG_S)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("server") / "server"
    compile_server(find_compiler(ARCHITECTURES[os.uname().machine]), path)
    return path


@pytest.fixture(scope="module")
def rig(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(binary, tmp_path_factory.mktemp("rig"))
    yield made
    made.close()


@pytest.fixture
def new_rig(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*options: str) -> Rig:
        made.append(Rig(binary, tmp_path, *options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextlib.contextmanager
def farm_of(rig: Rig, directory: Path) -> Iterator[Farm]:
    profile = DeviceProfile(
        key=KEY, target=load_profile("local").target, tracker=rig.tracker_address
    )
    with open_farm(profile, work_directory=directory) as farm:
        yield farm
    rig.wait_until_free()


def network(directory: Path) -> Path:
    path = directory / "net.so"
    tvm.compile(Network, target=Target(json.loads(load_profile("local").target))).export_library(
        str(path)
    )
    return path


def test_a_network_and_a_kernel_give_what_tvms_own_server_gives(
    rig: Rig, farm: Farm, kernels: dict[str, Path], tmp_path: Path
) -> None:
    path = network(tmp_path)
    inputs = np.random.default_rng(3).standard_normal(SHAPE).astype("float32")
    expected = run_network(path, inputs, farm, batch_size=1)
    with farm_of(rig, tmp_path / "farm") as ours:
        outputs = run_network(path, inputs, ours, batch_size=1)
        latency = measure(path, SHAPE, ours, timing=QUICK)
        samples = measure_kernel(
            ours,
            kernels["good"],
            ARGUMENTS,
            timing=QUICK,
            deadline_s=HANG_S,
            lease_deadline_s=HANG_S,
            cold=True,
        )
        assert ours.fingerprint().digest == farm.fingerprint().digest
    assert len(outputs) == len(expected) == 2
    for ours_out, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(ours_out, theirs)
    assert np.abs(outputs[0]).max() > 0.05  # equal zeros would prove nothing
    assert latency.latency_ms > 0
    assert isinstance(samples, list) and len(samples) == QUICK.repeat


def test_the_caches_can_be_emptied_whatever_a_kernel_takes_first(rig: Rig) -> None:
    remote = rig.connect()
    evict = remote.get_function(EVICT_FUNCTION)
    image, output = (tvm.runtime.empty(shape, "float32", remote.cpu(0)) for shape in [(3, 5), (7,)])
    evict(image)
    evict(image, "no tensor", output)
    evict("no tensor")
    evict()


def test_the_facts_are_those_that_python_tells(rig: Rig) -> None:
    facts = json.loads(rig.connect().get_function(FACTS_FUNCTION)())
    assert facts == device_facts()
    assert Fingerprint.of(facts) == Fingerprint.of(device_facts())
    rig.wait_until_free()


def test_a_sessions_files_are_its_own_and_go_with_it(rig: Rig) -> None:
    remote = rig.connect()
    remote.upload(bytearray(b"1234"), target="a.bin")
    assert remote.listdir(".") == "a.bin"
    assert bytes(remote.download("a.bin")) == b"1234"
    assert len(list(rig.sessions.iterdir())) == 1
    remote.remove("a.bin")
    assert remote.listdir(".") == ""
    with pytest.raises(Exception, match=r"only \.so files"):
        remote.load_module("a.tar")
    del remote
    rig.wait_until_free()
    assert list(rig.sessions.iterdir()) == []


def test_a_linked_library_is_sent_back_as_tvms_own_server_does(
    rig: Rig, kernels: dict[str, Path]
) -> None:
    remote = rig.connect()
    library = kernels["good"].read_bytes()
    remote.upload(bytearray(library), target="good.so")
    assert bytes(remote.download_linked_module("good.so")) == library
    remote.upload(bytearray(b"!<arch>"), target="good.tar")
    with pytest.raises(Exception, match=r"only \.so files are linked, .*link it where it was"):
        remote.download_linked_module("good.tar")
    with pytest.raises(Exception, match=r"cannot read .*nothing\.so: No such file"):
        remote.download_linked_module("nothing.so")
    with pytest.raises(Exception, match="expected 1 arguments, got 0"):
        remote.get_function("tvm.rpc.server.download_linked_module")()
    assert bytes(remote.download_linked_module("good.so")) == library
    del remote
    rig.wait_until_free()


def test_a_crashing_kernel_says_its_signal_and_the_server_waits_for_no_timeout(
    rig: Rig, kernels: dict[str, Path]
) -> None:
    remote = rig.connect()
    remote.upload(bytearray(kernels["crash"].read_bytes()), target="crash.so")
    crash = remote.load_module("crash.so")["main"]
    with pytest.raises(Exception, match="signal 11"):
        crash()
    rig.wait_until_free()
    rig.serves(kernels["good"])
    rig.wait_until_free()


def test_an_endless_kernel_ends_with_its_session(rig: Rig, kernels: dict[str, Path]) -> None:
    remote = rig.connect(timeout_s=1)
    remote.upload(bytearray(kernels["hang"].read_bytes()), target="hang.so")
    hang = remote.load_module("hang.so")["main"]
    with pytest.raises(Exception, match="RPCSessionTimeoutError.*1 s"):
        hang()
    rig.wait_until_free()
    assert rig.children() == []
    assert list(rig.sessions.iterdir()) == []
    rig.serves(kernels["good"])
    rig.wait_until_free()


def test_the_servers_own_limit_ends_a_session_that_asked_for_more(
    new_rig: Callable[..., Rig], kernels: dict[str, Path]
) -> None:
    rig = new_rig("--session-timeout", "1", "--max-upload-bytes", "1000")
    remote = rig.connect(timeout_s=NEVER_S)
    with pytest.raises(Exception, match="an upload may have 1000 bytes, not 1001"):
        remote.upload(bytearray(1001), target="big")
    remote.upload(bytearray(1000), target="fits.so")
    assert bytes(remote.download_linked_module("fits.so")) == bytes(1000)
    large = rig.sessions / next(rig.sessions.iterdir()).name / "large.so"
    large.write_bytes(bytes(1001))
    with pytest.raises(Exception, match=r"cannot send .*large\.so of 1001 bytes; at most 1000"):
        remote.download_linked_module("large.so")
    del remote
    rig.wait_until_free()
    started = time.monotonic()
    remote = rig.connect(timeout_s=NEVER_S)
    rig.wait_until_free()
    # At least the limit; that it is not what the client asked for shows in that it ends at all.
    assert time.monotonic() - started >= 1
    with pytest.raises(Exception, match="RPCSessionTimeoutError"):
        remote.listdir(".")


def test_killing_the_sessions_child_costs_that_session_only(
    rig: Rig, kernels: dict[str, Path]
) -> None:
    remote = rig.connect()
    (child,) = rig.children()
    child.kill()
    with pytest.raises(Exception, match="signal 9"):
        remote.listdir(".")
    rig.wait_until_free()
    rig.serves(kernels["good"])
    rig.wait_until_free()


def test_a_client_killed_in_a_kernel_gives_the_device_back(
    rig: Rig, kernels: dict[str, Path]
) -> None:
    script = (
        "import sys; from tvm import rpc; from tvm_mnas.devices.core.tracker import *\n"
        "with TrackerClient(TrackerAddress(sys.argv[1], int(sys.argv[2]))) as tracker:\n"
        f"    grant = tracker.request({KEY!r}, deadline_s={HANG_S})\n"
        "remote = rpc.connect(grant.host, grant.port, grant.match_key, session_timeout=600)\n"
        "remote.upload(bytearray(open(sys.argv[3], 'rb').read()), target='hang.so')\n"
        "hang = remote.load_module('hang.so')['main']; print('ready', flush=True); hang()\n"
    )
    address = rig.tracker_address
    client = subprocess.Popen(
        [sys.executable, "-c", script, address.host, str(address.port), kernels["hang"]],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    client.kill()
    client.wait(HANG_S)
    client.stdout.close()
    rig.wait_until_free()
    assert rig.children() == []
    rig.serves(kernels["good"])
    rig.wait_until_free()


def serves_while_others_are_silent(rig: Rig, kernel: Path) -> bool:
    """Tell whether a session was served before the server hung up on the last of many that say nothing."""
    with contextlib.ExitStack() as stack:
        # More than the server keeps waiting; the longest silent makes room for the next.
        silent = [stack.enter_context(rig.raw()) for _ in range(20)]
        rig.serves(kernel)
        silent[-1].setblocking(False)
        try:
            silent[-1].recv(1)
            served_first = False
        except BlockingIOError:
            served_first = True
        silent[-1].settimeout(HANG_S)
        assert silent[-1].recv(1) == b"", "kept for ever"
    return served_first


def test_bad_handshakes_and_silence_cost_only_their_own_connection(
    rig: Rig, kernels: dict[str, Path]
) -> None:
    with rig.raw() as bad, rig.raw() as huge, rig.raw() as half, rig.raw() as wrong:
        half.sendall(struct.pack("<i", MAGIC) + b"\x07")
        bad.sendall(b"GET / HT")
        assert bad.recv(8) == b""
        huge.sendall(struct.pack("<ii", MAGIC, 1 << 30))
        assert huge.recv(8) == b""
        wrong.sendall(struct.pack("<ii", MAGIC, 12) + b"client:board")
        assert struct.unpack("<i", wrong.recv(4)) == (MISMATCH,)
        # A server that waited for the silent ones would never serve before it has hung up on the last of them;
        # one that doesn't may seem to, once in a while, where the machine is slower than its patience.
        assert any(serves_while_others_are_silent(rig, kernels["good"]) for _ in range(5))
    rig.wait_until_free()


def test_a_key_in_two_parts_is_put_together(rig: Rig) -> None:
    with TrackerClient(rig.tracker_address) as tracker:
        grant = tracker.request(KEY, deadline_s=HANG_S)
    with rig.raw() as slow:
        said = f"client:{grant.match_key}".encode()
        message = struct.pack("<ii", MAGIC, len(said)) + said
        for piece in (message[:3], message[3:9], message[9:]):
            slow.sendall(piece)
            time.sleep(0.1)
        assert struct.unpack("<ii", slow.recv(8)) == (MAGIC, len(f"server:{KEY}"))
        assert slow.recv(64).decode() == f"server:{KEY}"
    rig.wait_until_free()


def test_a_key_that_a_client_took_and_never_used_is_replaced(rig: Rig) -> None:
    with TrackerClient(rig.tracker_address) as tracker:
        grant = tracker.request(KEY, deadline_s=HANG_S)
    rig.wait_until_free()
    with TrackerClient(rig.tracker_address) as tracker:
        assert tracker.request(KEY, deadline_s=HANG_S).match_key != grant.match_key
    rig.wait_until_free()


def test_a_restarted_tracker_knows_the_server_again(
    new_rig: Callable[..., Rig], kernels: dict[str, Path]
) -> None:
    rig = new_rig()
    rig.tracker.kill()
    rig.tracker.wait(10)
    time.sleep(1)
    rig.start_tracker()
    rig.wait_until_free()
    rig.serves(kernels["good"])


def test_a_stopped_server_takes_its_session_along(
    new_rig: Callable[..., Rig], kernels: dict[str, Path]
) -> None:
    rig = new_rig()
    remote = rig.connect()
    (child,) = rig.children()
    assert remote.listdir(".") == ""
    rig.server.terminate()
    assert rig.server.wait(HANG_S) == 0
    assert not child.is_running()
    assert list(rig.sessions.iterdir()) == []
    with pytest.raises(Exception, match="server was stopped|Connection reset|Broken pipe"):
        remote.listdir(".")


def test_a_session_keeps_to_its_core_and_its_memory(new_rig: Callable[..., Rig]) -> None:
    core = max(os.sched_getaffinity(0))
    rig = new_rig("--core", str(core), "--memory-bytes", str(1 << 30))
    remote = rig.connect()
    assert remote.listdir(".") == ""
    (child,) = rig.children()
    assert child.cpu_affinity() == [core]
    assert child.rlimit(psutil.RLIMIT_AS) == (1 << 30, 1 << 30)
    with pytest.raises(Exception, match=r"alloc|memory|RPC"):
        tvm.runtime.empty((1 << 31,), "int8", remote.cpu())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "a", "--bind", "0.0.0.0"], "lets anyone who reaches this port run any code"),
        (["--port", "9090"], "--key is needed"),
        (["--key", 'a"b'], "letters, digits"),
        (["--key", "a", "--tracker", "nowhere"], "takes HOST:PORT"),
        (["--key", "a", "--port", "x"], "--port takes a number"),
        (["--key", "a", "--core", "1000"], "cannot run on core 1000"),
        (["--key", "a", "--work-directory", "/nowhere"], "no work directory"),
        (["--key", "a", "--colour", "red"], "unknown option --colour"),
    ],
)
def test_wrong_options_end_at_once_and_say_why(
    binary: Path, options: list[str], message: str
) -> None:
    done = subprocess.run([binary, *options], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 1
    assert message in done.stderr
