"""The tracker's client: real answers, and a prompt error where there is no tracker."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tvm_mnas.devices.core.profile import DeviceProfile
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.farm import Farm, open_farm
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.errors import LeaseTimeoutError, TrackerError


def board(tracker: TrackerAddress, key: str = "board") -> DeviceProfile:
    return DeviceProfile(key=key, target='{"kind": "llvm", "num-cores": 1}', tracker=tracker)


def test_a_tracker_that_is_not_there_is_reported_with_the_next_command(
    tmp_path: Path,
) -> None:
    address = TrackerAddress("127.0.0.1", free_port("127.0.0.1"))
    with pytest.raises(TrackerError, match=r"python -m tvm\.exec\.rpc_tracker") as caught:
        open_farm(board(address), work_directory=tmp_path)
    assert str(address) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n"])
def test_something_else_at_the_trackers_port_is_a_tracker_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TrackerError):
            TrackerClient(TrackerAddress("127.0.0.1", server.getsockname()[1]))


def test_a_silent_port_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = TrackerAddress("127.0.0.1", server.getsockname()[1])

        def wait_long() -> None:
            with contextlib.suppress(TrackerError):
                TrackerClient(address, timeout_s=600)

        patient = threading.Thread(target=wait_long, daemon=True)
        patient.start()
        connection, _ = server.accept()
        started = time.monotonic()
        with pytest.raises(TrackerError):
            TrackerClient(address, timeout_s=0.5)
        assert time.monotonic() - started >= 0.5
        # Each ends at its own deadline: who came first still waits.
        assert patient.is_alive()
        connection.close()
        patient.join(60)
        assert not patient.is_alive()


def test_the_devices_of_a_running_tracker_are_listed(farm: Farm) -> None:
    with TrackerClient(farm.tracker) as tracker:
        (device,) = tracker.devices()
        assert (device.key, device.host) == ("local", "127.0.0.1")
        assert tracker.devices("board") == []


def test_an_unknown_device_is_refused_with_the_next_command(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(LeaseTimeoutError, match=r"rpc_server --tracker .* --key board"):
        open_farm(board(farm.tracker), work_directory=tmp_path)


def test_a_request_for_a_device_that_never_comes_ends_at_its_deadline(farm: Farm) -> None:
    started = time.monotonic()
    # Were it the client's own deadline that counted, it would take longer than pytest lets a test take.
    with (
        TrackerClient(farm.tracker, timeout_s=600) as tracker,
        pytest.raises(LeaseTimeoutError, match="board"),
    ):
        tracker.request("board", deadline_s=0.3)
    assert time.monotonic() - started >= 0.3


def test_a_foreign_farm_leases_the_device_and_gives_it_back(farm: Farm, tmp_path: Path) -> None:
    # Two farms at one tracker, as two users of one board: who comes second waits for its turn or its deadline.
    with farm.lease():
        pass
    with open_farm(board(farm.tracker, "local"), work_directory=tmp_path) as second:
        assert second.capacity == 1
        with (
            pytest.raises(LeaseTimeoutError, match="tvm-mnas device list"),
            second.lease(deadline_s=1),
        ):
            pytest.fail("the first farm's session still holds the device")
