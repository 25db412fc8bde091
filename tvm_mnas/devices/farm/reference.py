"""The reference kernel of a farm: always the same work, so that its time tells of the device and of nothing else.

It is timed when a device is first leased, which is the device's level, and after each latency. A device that is far
slower than the fastest of its profile does not measure, and a time away from the level says that two latencies do not
compare. A level that has changed for good (a neighbour left, a governor stepped) becomes the new one after a few
latencies, and is said once. The library is compiled once per target elsewhere (this room knows no compiler) and handed
to the farm.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tvm_mnas.devices.core.latency import change_text
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.farm.channel import WorkerReply, WorkerStatus
from tvm_mnas.errors import DeviceLostError

TIMING = TimingSettings(repeat=10, number=1, min_repeat_ms=5, warmup=0, attempts=3)
"""Some 0.1 s in all, little beside a latency: so each latency can have a reference of its own."""
FIRST_S = 20.0
"""What the first timing on a device may take, with the upload."""
REST_S = 600.0
"""A device that was too slow is looked at again after this time: it may have been hot, or busy with something else."""
LASTING = 3
"""A change that this many latencies in a row agree on is the device's new level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A shared library with one kernel, and type and shape of each of its arguments."""

    path: Path
    arguments: tuple[tuple[str, tuple[int, ...]], ...]
    timing: TimingSettings = TIMING


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceTiming:
    """What the reference kernel took on a device, and how much longer that is than its level, as a part of that."""

    time_s: float
    change: float

    def moved(self, max_spread: float) -> bool:
        """Whether that is more than noise: beyond the spread that a profile allows."""
        return abs(self.change) > max_spread


class ReferenceDevice(Protocol):
    """A leased device, of which `name` stays the same from lease to lease."""

    @property
    def name(self) -> str:
        """What the device is called in messages."""

    def time_reference(self, reference: Reference, *, deadline_s: float) -> WorkerReply:
        """Time the reference kernel; the reply holds `samples_s`."""


class ReferenceWatch:
    """The times of the reference kernel on each device of a farm; safe to use from several threads."""

    def __init__(
        self,
        reference: Reference,
        profile: DeviceProfile,
        *,
        on_warning: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing of any device yet; `on_warning` gets a line where one is left alone or has changed."""
        self._clock = clock
        self._reference = reference
        self._profile = profile
        self._warn = on_warning
        self._lock = threading.Lock()
        self._level_s: dict[str, float | None] = {}
        self._moved_s: dict[str, list[float]] = {}
        self._measured: set[str] = set()
        self._refused_at: dict[str, float] = {}

    def admits(self, device: ReferenceDevice, *, to_measure: bool = True) -> bool:
        """Return whether a device may measure; one that is met for the first time is timed.

        So is one that was refused a while ago. Without `to_measure` it was only asked for.
        """
        with self._lock:
            refused_at = self._refused_at.get(device.name, math.inf)
            if self._clock() - refused_at > REST_S:
                del self._refused_at[device.name]
                self._level_s.pop(device.name, None)
            known = device.name in self._level_s
        if not known:
            try:
                time_s = self._first_time_s(device)
            except DeviceLostError:
                return False
            with self._lock:
                self._level_s[device.name] = time_s
            self._refuse_slow()
        if device.name in self._all_slow():
            return False
        if to_measure:
            with self._lock:
                self._measured.add(device.name)
        return True

    def slow(self) -> dict[str, str]:
        """Return the devices that are left alone at this moment, with their reasons."""
        now = self._clock()
        slow = self._all_slow()
        with self._lock:
            resting = {name for name, at in self._refused_at.items() if now - at <= REST_S}
        return {name: reason for name, reason in slow.items() if name in resting}

    def _all_slow(self) -> dict[str, str]:
        with self._lock:
            times_s = {name: time_s for name, time_s in self._level_s.items() if time_s is not None}
        if not times_s:
            return {}
        fastest = min(times_s, key=lambda name: times_s[name])
        bound = self._profile.max_slowdown
        return {
            name: f"its reference kernel takes {1e3 * time_s:.3g} ms, {time_s / times_s[fastest]:.1f} times as long "
            f"as that of {fastest} (at most {bound:g} times, max_slowdown in the profile)"
            for name, time_s in times_s.items()
            if time_s > bound * times_s[fastest]
        }

    def read(self, device: ReferenceDevice, *, deadline_s: float) -> ReferenceTiming | None:
        """Return what the reference kernel takes now, `None` where it does not run there.

        A change beyond the spread that the profile allows is looked at again: the least of them counts, as a moment's
        noise is the latency's own matter.

        Raises DeviceLostError where the device hung or vanished.
        """
        with self._lock:
            level_s = self._level_s.get(device.name)
        if level_s is None:
            return None
        least: ReferenceTiming | None = None
        for _ in range(self._reference.timing.attempts):
            now_s = self._time_s(device, deadline_s)
            if now_s is None:
                return None
            reading = ReferenceTiming(time_s=now_s, change=now_s / level_s - 1.0)
            if least is None or abs(reading.change) < abs(least.change):
                least = reading
            if not least.moved(self._profile.timing.max_spread):
                break
        return least

    def keep(self, device: ReferenceDevice, reading: ReferenceTiming) -> ReferenceTiming:
        """Remember the reading that a latency on this device got, and return it against the level as it is then.

        `LASTING` readings in a row that moved, and agree within the spread that the profile allows, are the new level.
        """
        bound = self._profile.timing.max_spread
        with self._lock:
            level_s = self._level_s.get(device.name)
            if level_s is None or not reading.moved(bound):
                self._moved_s.pop(device.name, None)
                return reading
            moved_s = [*self._moved_s.get(device.name, ()), reading.time_s][-LASTING:]
            self._moved_s[device.name] = moved_s
            new_s = statistics.median(moved_s)
            if len(moved_s) < LASTING or any(abs(one_s / new_s - 1.0) > bound for one_s in moved_s):
                return reading
            self._level_s[device.name] = new_s
            del self._moved_s[device.name]
        self.warn(device, f"{change_text(new_s / level_s - 1.0)}; that is its level from now on")
        self._refuse_slow()
        return ReferenceTiming(time_s=reading.time_s, change=reading.time_s / new_s - 1.0)

    def levels_s(self) -> tuple[float, ...]:
        """Return what the reference kernel takes on each device that measures, where it runs."""
        slow = self._all_slow()
        with self._lock:
            levels_s = {name: time_s for name, time_s in self._level_s.items() if name not in slow}
        return tuple(time_s for time_s in levels_s.values() if time_s is not None)

    def warn(self, device: ReferenceDevice, text: str) -> None:
        """Tell a person something about a device, by its name."""
        self._warn(f"device {self._profile.key}, {device.name}: {text}")

    def _refuse_slow(self) -> None:
        for name, reason in self._all_slow().items():
            with self._lock:
                known = name in self._refused_at
                self._refused_at.setdefault(name, self._clock())
                measured = name in self._measured
            if not known:
                late = "; what it measured before is not taken back" if measured else ""
                self._warn(f"device {self._profile.key}, {name}: is left alone: {reason}{late}")

    def _first_time_s(self, device: ReferenceDevice) -> float | None:
        # The fastest of a few: what comes later is held against it.
        best_s: float | None = None
        for _ in range(self._reference.timing.attempts):
            time_s = self._time_s(device, FIRST_S)
            if time_s is None:
                return None
            best_s = time_s if best_s is None else min(best_s, time_s)
        return best_s

    def _time_s(self, device: ReferenceDevice, deadline_s: float) -> float | None:
        reply = device.time_reference(self._reference, deadline_s=deadline_s)
        if reply.status is WorkerStatus.FAILED:
            return None
        if reply.status is not WorkerStatus.OK:
            raise DeviceLostError(f"the device was lost at its reference kernel: {reply.message}")
        samples_s = [float(sample) for sample in reply.values["samples_s"]]
        median_s = statistics.median(samples_s) if samples_s else 0.0
        return median_s if math.isfinite(median_s) and median_s > 0 else None
