"""Which devices of a farm are left alone for a while: those that failed, twice as long each time. Arithmetic alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_S = 2.0
LONGEST_S = 60.0
FAILURES = 2
"""So many failures in a row during work make a device suspect: one may be the doing of what it ran."""


@dataclass
class _Case:
    failures: int = 0
    rest_s: float = FIRST_S
    until: float = 0.0
    reason: str = ""


class Quarantine:
    """The devices that failed, by address; safe to use from several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with every device trusted; `clock` tells seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._cases: dict[str, _Case] = {}

    def unreachable(self, address: str, reason: str) -> None:
        """Note that a device which the tracker lists could not be reached: that is nobody else's fault."""
        with self._lock:
            self._rest(self._case(address), reason)

    def failed(self, address: str, reason: str) -> None:
        """Note that a device hung or was lost at work."""
        with self._lock:
            case = self._case(address)
            case.failures += 1
            if case.failures >= FAILURES:
                self._rest(case, reason)

    def worked(self, address: str) -> None:
        """Note that a device did what it was asked for."""
        with self._lock:
            self._cases.pop(address, None)

    def blocked(self) -> dict[str, str]:
        """Return the devices that are left alone at this moment, with their reasons."""
        now = self._clock()
        with self._lock:
            return {
                address: case.reason for address, case in self._cases.items() if now < case.until
            }

    def _case(self, address: str) -> _Case:
        return self._cases.setdefault(address, _Case())

    def _rest(self, case: _Case, reason: str) -> None:
        case.until = self._clock() + case.rest_s
        case.rest_s = min(2 * case.rest_s, LONGEST_S)
        case.reason = reason
