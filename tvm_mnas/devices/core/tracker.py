"""A client of TVM's tracker that never waits for longer than it was told.

TVM's own client retries a refused connection for a minute and waits for a device for ever. The protocol is
small: four bytes of magic each way, then JSON messages with their length in front. Imports no TVM, so
listing devices is quick.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tvm_mnas.errors import LeaseTimeoutError, TrackerError

_MAGIC = 0x2F271
_SUCCESS = 0
_REQUEST = 4
_SUMMARY = 6
_MAX_MESSAGE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class TrackerAddress:
    """Where a tracker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return address_text(self.host, self.port)


def address_text(host: str, port: int) -> str:
    """Return host and port as one word; an IPv6 address is set in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device that is registered with a tracker.

    `free` is `None` where several devices share a key and only some of them are free: the tracker
    counts, it does not tell which.
    """

    key: str
    host: str
    port: int
    free: bool | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A device that the tracker hands to us: connect to host and port with this one-time key."""

    host: str
    port: int
    match_key: str


class TrackerClient:
    """One connection to a tracker; every call ends within its own deadline."""

    def __init__(self, address: TrackerAddress, *, timeout_s: float = 3.0) -> None:
        """Connect; raises TrackerError within `timeout_s` where no tracker answers."""
        self._address = address
        self._timeout_s = timeout_s
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout=timeout_s)
        except OSError as error:
            raise TrackerError(self._unreachable(str(error))) from error
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(struct.pack("<i", _MAGIC))
            (magic,) = struct.unpack("<i", self._receive(4, time.monotonic() + timeout_s))
        except OSError as error:
            self.close()
            raise TrackerError(self._unreachable(str(error))) from error
        if magic != _MAGIC:
            self.close()
            raise TrackerError(self._unreachable("something else listens there"))

    def __enter__(self) -> TrackerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a request that is still pending dies with it."""
        self._socket.close()

    def devices(self, key: str | None = None) -> list[DeviceStatus]:
        """Return the registered devices, of one key or of all, sorted by key and address."""
        try:
            code, summary = self._call([_SUMMARY], self._timeout_s)
            if code != _SUCCESS:
                raise ValueError(f"code {code}")
            queues: dict[str, dict[str, int]] = summary["queue_info"]
            found = [
                (str(info["key"]).partition(":")[2], str(info["addr"][0]), int(info["addr"][1]))
                for info in summary["server_info"]
            ]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise TrackerError(self._unreachable(f"its answer is unusable: {error}")) from error
        totals = {name: sum(1 for device in found if device[0] == name) for name, _, _ in found}
        return [
            DeviceStatus(
                name, host, port, _is_free(queues.get(name, {}).get("free", 0), totals[name])
            )
            for name, host, port in sorted(found)
            if key is None or name == key
        ]

    def request(self, key: str, *, deadline_s: float, priority: int = 1) -> Grant:
        """Return a free device of `key`; raises LeaseTimeoutError where none is free in time."""
        try:
            code, granted = self._call([_REQUEST, key, "", priority], deadline_s)
            if code != _SUCCESS:
                raise ValueError(f"code {code}")
            host, port, match_key = granted
            return Grant(str(host), int(port), str(match_key))
        except TimeoutError as error:
            raise LeaseTimeoutError(
                f"no device {key!r} became free at tracker {self._address} within {deadline_s:g} s; "
                "see who holds it with: tvm-mnas device list"
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise TrackerError(self._unreachable(f"its answer is unusable: {error}")) from error

    def _call(self, message: object, deadline_s: float) -> tuple[int, Any]:
        end = time.monotonic() + deadline_s
        body = json.dumps(message).encode()
        self._socket.settimeout(max(deadline_s, 0.001))
        self._socket.sendall(struct.pack("<i", len(body)) + body)
        (size,) = struct.unpack("<i", self._receive(4, end))
        if not 0 < size <= _MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {size} bytes")
        code, value = json.loads(self._receive(size, end))
        return int(code), value

    def _receive(self, size: int, end: float) -> bytes:
        chunks = bytearray()
        while len(chunks) < size:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            chunk = self._socket.recv(size - len(chunks))
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            chunks += chunk
        return bytes(chunks)

    def _unreachable(self, reason: str) -> str:
        return (
            f"tracker {self._address} does not answer ({reason}); start one with: "
            f"python -m tvm.exec.rpc_tracker --host {self._address.host} --port {self._address.port}"
        )


def _is_free(free: int, total: int) -> bool | None:
    if free >= total:
        return True
    return False if free == 0 else None
