"""Ways to a device that open no port on it: ssh, and adb for Android. Each runs shell commands and forwards ports.

TVM's protocol has neither passwords nor encryption, so the device's server and the tracker listen on loopback, and
these two bring them together.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.errors import ConfigError, DeviceLostError

COMMAND_S = 60.0
"""How long a short command on the device may take."""
COPY_S = 300.0
"""How long a bundle may take to get there: 5 MB over a slow radio."""


class Reach(Protocol):
    """One way to one device."""

    @property
    def name(self) -> str:
        """What a user calls it: "ssh pi@board"."""

    @property
    def directory(self) -> str:
        """Where our files lie on the device, as a word of its shell."""

    def command(self, text: str) -> list[str]:
        """Return the command line, here, that runs `text` in the device's shell."""

    def copying(self, to: str, source: Path) -> tuple[list[str], Path | None]:
        """Return the command line that copies `source` to `to` on the device, and its standard input if it has one."""

    def forwarding(self, tracker: TrackerAddress, port: int) -> list[list[str]]:
        """Return the command lines that have to run before `serving`."""

    def serving(self, text: str, tracker: TrackerAddress, port: int) -> list[str]:
        """Return the command line that runs `text` there while the tracker and `port` are forwarded."""


@dataclass(frozen=True, slots=True)
class Ssh:
    """A device that `ssh` reaches without asking for a password: a name of ~/.ssh/config, or user@host."""

    host: str

    def __post_init__(self) -> None:
        _check_word(self.host, "--ssh")

    @property
    def name(self) -> str:
        """What a user calls it."""
        return f"ssh {self.host}"

    @property
    def directory(self) -> str:
        """A directory of ours in the home of the user there."""
        return '"$HOME"/.tvm-mnas'

    def command(self, text: str) -> list[str]:
        """Return the command line, here, that runs `text` in the device's shell."""
        return [*self._start(), self.host, text]

    def copying(self, to: str, source: Path) -> tuple[list[str], Path | None]:
        """Return the command line that copies `source` to `to`, and its standard input if it has one."""
        # Not scp: it needs another program on the device.
        return self.command(f"cat > {to}"), source

    def forwarding(self, tracker: TrackerAddress, port: int) -> list[list[str]]:
        """Return the command lines that have to run before `serving`."""
        return []

    def serving(self, text: str, tracker: TrackerAddress, port: int) -> list[str]:
        """Return the command line that runs `text` there while the tracker and `port` are forwarded."""
        return [
            *self._start(),
            *("-o", "ExitOnForwardFailure=yes"),
            *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
            *("-R", f"127.0.0.1:{tracker.port}:{tracker}"),
            *("-L", f"127.0.0.1:{port}:127.0.0.1:{port}", self.host, text),
        ]

    @staticmethod
    def _start() -> list[str]:
        return ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]


@dataclass(frozen=True, slots=True)
class Adb:
    """An Android device by its serial number, as `adb devices` lists it."""

    serial: str

    def __post_init__(self) -> None:
        _check_word(self.serial, "--adb")

    @property
    def name(self) -> str:
        """What a user calls it."""
        return f"adb -s {self.serial}"

    @property
    def directory(self) -> str:
        """A directory of ours in the home of the user there."""
        # The one place where `adb shell` may both write and execute.
        return "/data/local/tmp/tvm-mnas"

    def command(self, text: str) -> list[str]:
        """Return the command line, here, that runs `text` in the device's shell."""
        return ["adb", "-s", self.serial, "shell", text]

    def copying(self, to: str, source: Path) -> tuple[list[str], Path | None]:
        """Return the command line that copies `source` to `to`, and its standard input if it has one."""
        return ["adb", "-s", self.serial, "push", str(source), to], None

    def forwarding(self, tracker: TrackerAddress, port: int) -> list[list[str]]:
        """Return the command lines that have to run before `serving`."""
        start = ["adb", "-s", self.serial]
        return [
            [*start, "reverse", f"tcp:{tracker.port}", f"tcp:{tracker.port}"],
            [*start, "forward", f"tcp:{port}", f"tcp:{port}"],
        ]

    def serving(self, text: str, tracker: TrackerAddress, port: int) -> list[str]:
        """Return the command line that runs `text` there while the tracker and `port` are forwarded."""
        return self.command(text)


def run_there(reach: Reach, text: str) -> str:
    """Return what the shell command `text` prints on the device, stripped; raises DeviceLostError if it fails."""
    return _run(reach, reach.command(text), None, COMMAND_S)


def copy_there(reach: Reach, source: Path, to: str) -> None:
    """Copy a file to the device; raises DeviceLostError if that fails."""
    command, stdin = reach.copying(to, source)
    _run(reach, command, stdin, COPY_S)


def forward_ports(reach: Reach, tracker: TrackerAddress, port: int) -> None:
    """Do what has to be done before `serving`; raises DeviceLostError if it fails."""
    for command in reach.forwarding(tracker, port):
        _run(reach, command, None, COMMAND_S)


def _run(reach: Reach, command: Sequence[str], stdin: Path | None, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command,
            input=stdin.read_bytes() if stdin is not None else b"",
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        package = {"ssh": "openssh-client", "adb": "adb"}[command[0]]
        raise DeviceLostError(
            f"{reach.name} needs {command[0]}, and it is not there; run: apt-get install {package}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceLostError(
            f"{reach.name} answers within {timeout_s:g} s, and it did not"
        ) from error
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        raise DeviceLostError(
            f"{reach.name} failed: {lines[-1] if lines else f'exit code {done.returncode}'}; "
            f"try it by hand: {' '.join(reach.command('uname -m'))}"
        )
    return done.stdout.decode(errors="replace").strip()


def _check_word(value: str, option: str) -> None:
    # A leading dash would be an option of ssh, and options of ssh run programs.
    if not value or value.startswith("-") or any(c.isspace() for c in value):
        raise ConfigError(f"{option} takes a name without spaces or a leading dash, not {value!r}")
