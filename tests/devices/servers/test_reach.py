"""The command lines of ssh and adb, and what is said when they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.devices.servers.reach import Adb, Ssh, copy_there, forward_ports, run_there
from tvm_mnas.errors import ConfigError, DeviceLostError

TRACKER = TrackerAddress("127.0.0.1", 9190)


def stand_in(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def test_ssh_asks_nothing_and_forwards_loopback_only() -> None:
    serving = Ssh("pi@board").serving("run", TRACKER, 9091)
    assert serving[-2:] == ["pi@board", "run"]
    assert "BatchMode=yes" in serving
    assert serving[serving.index("-R") + 1] == "127.0.0.1:9190:127.0.0.1:9190"
    assert serving[serving.index("-L") + 1] == "127.0.0.1:9091:127.0.0.1:9091"


def test_adb_forwards_both_ways_before_it_serves(programs: Path, tmp_path: Path) -> None:
    stand_in(programs, "adb", f'echo "$@" >> {tmp_path}/calls')
    forward_ports(Adb("A1"), TRACKER, 9091)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "-s A1 reverse tcp:9190 tcp:9190",
        "-s A1 forward tcp:9091 tcp:9091",
    ]
    assert Adb("A1").serving("run", TRACKER, 9091) == ["adb", "-s", "A1", "shell", "run"]


def test_a_file_arrives_whole(programs: Path, tmp_path: Path) -> None:
    stand_in(programs, "ssh", 'for last; do :; done; exec sh -c "$last"')
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 1000)
    copy_there(Ssh("board"), source, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert run_there(Ssh("board"), "echo there") == "there"


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b"])
def test_a_host_cannot_be_an_option(host: str) -> None:
    with pytest.raises(ConfigError, match="--ssh takes a name"):
        Ssh(host)


def test_what_fails_is_told_in_its_own_words(programs: Path) -> None:
    stand_in(programs, "ssh", "echo Permission denied >&2; exit 255")
    with pytest.raises(
        DeviceLostError, match=r"ssh board failed: Permission denied; try it by hand: ssh"
    ):
        run_there(Ssh("board"), "uname")


def test_a_program_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceLostError, match="apt-get install adb"):
        run_there(Adb("A1"), "uname")
