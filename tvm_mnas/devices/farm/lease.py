"""A leased device: what can be asked of it, each request with a deadline. Leases are given by a farm (farm.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm_mnas.devices.core.host import Fingerprint
from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.farm.channel import WorkerHandle, WorkerReply
from tvm_mnas.devices.farm.reference import Reference


class Lease:
    """One device, ours for a while."""

    def __init__(
        self,
        worker: WorkerHandle,
        server: str,
        fingerprint: Fingerprint,
        on_reply: Callable[[str, WorkerReply], None],
        name: str,
    ) -> None:
        """Wrap an open worker; `on_reply` is told how each request to the device at `server` ended.

        `name` stays the device's when its server comes back at another port.
        """
        self._worker = worker
        self._on_reply = on_reply
        self.server = server
        self.fingerprint = fingerprint
        self.name = name

    def time_kernel(
        self,
        path: Path,
        arguments: Sequence[tuple[str, Sequence[int]]],
        timing: TimingSettings,
        *,
        deadline_s: float,
        entry: str = "",
        cold: bool = False,
    ) -> WorkerReply:
        """Time the entry function of a shared library on random arguments of these (dtype, shape).

        With `cold` its weights come from beyond the caches, as in a network, where the device's server can see to that.

        The reply holds `samples_s`, or `instructions` where an emulator counts them, or why there are none: a kernel's
        failure is a result, not an exception.
        """
        request = {
            "op": "kernel",
            "path": str(path.resolve()),
            "entry": entry,
            "arguments": [[dtype, list(shape)] for dtype, shape in arguments],
            "timing": _timing_values(timing),
            "cold": cold,
        }
        return self._call(request, deadline_s)

    def load_network(
        self, path: Path, payload: bytes, dtype: str, shape: Sequence[int], *, deadline_s: float
    ) -> WorkerReply:
        """Upload a compiled network and set its input."""
        request = {"op": "load", "path": str(path.resolve()), "dtype": dtype, "shape": list(shape)}
        return self._call(request, deadline_s, payload)

    def time_network(self, timing: TimingSettings, *, deadline_s: float) -> WorkerReply:
        """Time the loaded network; the reply holds `samples_s`."""
        return self._call({"op": "time", "timing": _timing_values(timing)}, deadline_s)

    def count_network(self, *, deadline_s: float) -> WorkerReply:
        """Count the instructions of one run of the loaded network; the reply holds `instructions`."""
        return self._call({"op": "count"}, deadline_s)

    def run_network(
        self, payload: bytes, dtype: str, shape: Sequence[int], *, deadline_s: float
    ) -> WorkerReply:
        """Run the loaded network once; the reply holds `outputs` ([dtype, shape] each) and their bytes."""
        return self._call({"op": "run", "dtype": dtype, "shape": list(shape)}, deadline_s, payload)

    def state(self, *, deadline_s: float) -> WorkerReply:
        """Ask for the device's clocks and heat; the reply's `state` holds what is readable there."""
        return self._call({"op": "state"}, deadline_s)

    def time_reference(self, reference: Reference, *, deadline_s: float) -> WorkerReply:
        """Time the reference kernel beside whatever is loaded; the reply holds `samples_s`."""
        request = {
            "op": "reference",
            "path": str(reference.path.resolve()),
            "arguments": [[dtype, list(shape)] for dtype, shape in reference.arguments],
            "timing": _timing_values(reference.timing),
        }
        return self._call(request, deadline_s)

    def _call(
        self, request: Mapping[str, Any], deadline_s: float, payload: bytes = b""
    ) -> WorkerReply:
        reply = self._worker.call(request, deadline_s=deadline_s, payload=payload)
        self._on_reply(self.server, reply)
        return reply


def _timing_values(timing: TimingSettings) -> dict[str, int]:
    return {
        "number": timing.number,
        "repeat": timing.repeat,
        "min_repeat_ms": timing.min_repeat_ms,
        "warmup": timing.warmup,
        "cooldown_ms": round(timing.cooldown_s * 1000),
    }
