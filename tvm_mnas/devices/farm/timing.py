"""A compiled network on a device: its outputs and its latency, through the same upload and session.

Check the outputs against torch before a latency counts: a wrongly compiled network may well be fast.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.devices.core.host import tvm_version
from tvm_mnas.devices.core.latency import Coverage, Latency, change_text, spread_of
from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.core.state import DeviceState
from tvm_mnas.devices.farm.channel import WorkerReply, WorkerStatus
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.instructions import InstructionCounts
from tvm_mnas.devices.farm.lease import Lease
from tvm_mnas.devices.farm.reference import ReferenceTiming
from tvm_mnas.errors import DeviceLostError, MeasurementError

Array = npt.NDArray[np.generic]


def measure(
    artifact_path: Path,
    input_shape: Sequence[int],
    farm: Farm,
    *,
    coverage: Coverage = Coverage(),  # noqa: B008 -- frozen
    dtype: str = "float32",
    timing: TimingSettings | None = None,
    seed: int = 0,
    deadline_s: float = 60.0,
    lease_deadline_s: float = 60.0,
    when_noisy: Literal["flag", "raise"] = "flag",
) -> Latency:
    """Return the latency of a compiled network (`main`, one input of `input_shape` (N,C,H,W)).

    It is timed as the farm's profile says unless `timing` is given, and again while the spread is beyond
    `max_spread` or the farm's reference kernel, timed right after it, is further than that from its level, `attempts`
    times at most; the calmest attempt counts. One that stays beyond is flagged (`Latency.noisy`,
    `Latency.drifted`) or, if noisy, with `when_noisy="raise"` a MeasurementError. So are times that are not above zero
    and errors of the network; DeviceLostError where the device hung, crashed or vanished: that may pass.
    `deadline_s` bounds upload and all attempts, in seconds; the input is random, drawn from `seed`.
    """
    network = NetworkFile(
        path=artifact_path, input_shape=tuple(input_shape), dtype=dtype, coverage=coverage
    )
    with farm.lease(deadline_s=lease_deadline_s, hold_s=deadline_s) as lease:
        return _measure(
            network,
            farm,
            lease,
            timing=timing if timing is not None else farm.profile.timing,
            seed=seed,
            left_s=_countdown(deadline_s),
            when_noisy=when_noisy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """A compiled network on disk: `main` with one input of `input_shape` (N,C,H,W) and `dtype`.

    `coverage` says how well it is tuned, `precision` what it computes in.
    """

    path: Path
    input_shape: tuple[int, ...]
    dtype: str = "float32"
    coverage: Coverage = Coverage()  # noqa: RUF009 -- frozen
    precision: Precision = FLOAT32


def measure_in_turn(
    networks: Sequence[NetworkFile],
    farm: Farm,
    *,
    rounds: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
    deadline_s: float = 60.0,
    lease_deadline_s: float = 60.0,
) -> list[tuple[Latency, ...] | MeasurementError]:
    """Return each network's latencies, one of each round, or why it has none; all in one session on one device.

    They are timed one after another, `rounds` times: a slow minute falls on all alike, and no twin's speed is mixed in.
    One that fails is not timed again. `on_progress` gets the measurements done and those planned; `deadline_s` is for
    each of them.

    Raises DeviceLostError where the device hung, crashed or vanished, and what a lease raises.
    """
    total = rounds * len(networks)
    found: list[list[Latency] | MeasurementError] = [[] for _ in networks]
    if not total:
        return [() for _ in networks]
    with farm.lease(deadline_s=lease_deadline_s, hold_s=total * deadline_s) as lease:
        for turn in range(total):
            at = turn % len(networks)
            latencies = found[at]
            on_progress(turn, total)
            if isinstance(latencies, MeasurementError):
                continue
            try:
                latency = _measure(
                    networks[at],
                    farm,
                    lease,
                    timing=farm.profile.timing,
                    seed=seed,
                    left_s=_countdown(deadline_s),
                )
            except MeasurementError as error:
                found[at] = error
            else:
                latencies.append(latency)
    on_progress(total, total)
    return [one if isinstance(one, MeasurementError) else tuple(one) for one in found]


def run_network(
    artifact_path: Path,
    inputs: Array,
    farm: Farm,
    *,
    batch_size: int | None = None,
    deadline_s: float = 60.0,
    lease_deadline_s: float = 60.0,
) -> tuple[Array, ...]:
    """Return the outputs of a compiled network on the device, each with the inputs' first axis.

    `inputs` is (K,C,H,W) and goes through in batches of `batch_size`, the N that the network was compiled for
    (K where not given), which must divide K. Raises as `measure` does; `deadline_s` bounds the whole.
    """
    size = len(inputs) if batch_size is None else batch_size
    if size < 1 or len(inputs) == 0 or len(inputs) % size:
        raise MeasurementError(
            f"batch_size must divide the number of inputs ({len(inputs)}), not {size}"
        )
    batches = [np.ascontiguousarray(inputs[at : at + size]) for at in range(0, len(inputs), size)]
    outputs: list[tuple[Array, ...]] = []
    with farm.lease(deadline_s=lease_deadline_s, hold_s=deadline_s) as lease:
        left_s = _countdown(deadline_s)
        _load(lease, artifact_path, batches[0], left_s())
        for batch in batches:
            reply = lease.run_network(
                batch.tobytes(), str(batch.dtype), batch.shape, deadline_s=left_s()
            )
            outputs.append(_arrays(_checked(reply, artifact_path)))
    return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))


def count_instructions(
    network: NetworkFile, farm: Farm, *, seed: int = 0, deadline_s: float = 60.0
) -> InstructionCounts:
    """Return the instructions of one run of a compiled network on an emulated device that counts them.

    Raises as `measure` does: a MeasurementError too where nothing counts them.
    """
    inputs = np.random.default_rng(seed).standard_normal(network.input_shape).astype(network.dtype)
    with farm.lease(deadline_s=deadline_s, hold_s=deadline_s) as lease:
        left_s = _countdown(deadline_s)
        _load(lease, network.path, inputs, left_s())
        reply = _checked(lease.count_network(deadline_s=left_s()), network.path)
    return InstructionCounts.of(reply.values["instructions"])


def _measure(
    network: NetworkFile,
    farm: Farm,
    lease: Lease,
    *,
    timing: TimingSettings,
    seed: int,
    left_s: Callable[[], float],
    when_noisy: Literal["flag", "raise"] = "flag",
) -> Latency:
    inputs = np.random.default_rng(seed).standard_normal(network.input_shape).astype(network.dtype)
    _load(lease, network.path, inputs, left_s())
    best: _Attempt | None = None
    attempts = 0
    while attempts < timing.attempts:
        attempts += 1
        attempt = _attempt(farm, lease, network.path, timing, left_s)
        if best is None or attempt.rank(timing) < best.rank(timing):
            best = attempt
        if best.good(timing):
            break
    assert best is not None
    if best.reference is not None:
        best = replace(best, reference=farm.keep_reference(lease, best.reference))
    if best.drifted(timing):
        assert best.reference is not None
        farm.warn(
            lease, f"{change_text(best.reference.change)}; the latency measured there is flagged"
        )
    latency = Latency(
        samples_ms=tuple(best.samples_ms),
        device_key=farm.profile.key,
        fingerprint=lease.fingerprint.digest,
        target=farm.profile.target,
        tvm_version=tvm_version(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        emulated=farm.profile.emulated,
        max_spread=timing.max_spread,
        attempts=attempts,
        coverage=network.coverage,
        state_before=best.before,
        state_after=best.after,
        max_temperature_c=farm.profile.max_temperature_c,
        reference_ms=None if best.reference is None else 1e3 * best.reference.time_s,
        reference_change=None if best.reference is None else best.reference.change,
        device_name=lease.name,
        dtype=network.precision.dtype,
        accumulator=network.precision.accumulator,
    )
    if latency.noisy and when_noisy == "raise":
        raise MeasurementError(
            f"the spread of a latency must stay below {timing.max_spread:g}, not {latency.spread:.3f} after "
            f"{attempts} attempts on {farm.profile.key!r}; quiet the device or raise max_spread in its profile"
        )
    return latency


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    samples_ms: list[float]
    before: DeviceState | None
    after: DeviceState | None
    reference: ReferenceTiming | None

    def drifted(self, timing: TimingSettings) -> bool:
        return self.reference is not None and self.reference.moved(timing.max_spread)

    def good(self, timing: TimingSettings) -> bool:
        return not self.drifted(timing) and spread_of(self.samples_ms) <= timing.max_spread

    def rank(self, timing: TimingSettings) -> tuple[bool, float]:
        """What is least for the best attempt: no drift before little spread."""
        return self.drifted(timing), spread_of(self.samples_ms)


def _attempt(
    farm: Farm, lease: Lease, path: Path, timing: TimingSettings, left_s: Callable[[], float]
) -> _Attempt:
    before = _state(farm, lease, left_s())
    samples_ms = _samples_ms(_checked(lease.time_network(timing, deadline_s=left_s()), path))
    return _Attempt(
        samples_ms=samples_ms,
        before=before,
        after=_state(farm, lease, left_s()),
        reference=farm.read_reference(lease, deadline_s=left_s()),
    )


def _state(farm: Farm, lease: Lease, deadline_s: float) -> DeviceState | None:
    if farm.profile.emulated:
        return None  # it would be this machine's
    reply = lease.state(deadline_s=deadline_s)
    return DeviceState.read(reply.values.get("state", {}))


def _countdown(deadline_s: float) -> Callable[[], float]:
    end = time.monotonic() + deadline_s
    return lambda: max(end - time.monotonic(), 0.0)


def _load(lease: Lease, path: Path, inputs: Array, deadline_s: float) -> None:
    reply = lease.load_network(
        path, inputs.tobytes(), str(inputs.dtype), inputs.shape, deadline_s=deadline_s
    )
    _checked(reply, path)


def _checked(reply: WorkerReply, path: Path) -> WorkerReply:
    if reply.status is WorkerStatus.OK:
        return reply
    if reply.status is WorkerStatus.FAILED:
        raise MeasurementError(f"{path.name} must run on the device: {reply.message}")
    what = "hung" if reply.status is WorkerStatus.HUNG else "was lost"
    raise DeviceLostError(f"the device {what} while it ran {path.name}: {reply.message}")


def _samples_ms(reply: WorkerReply) -> list[float]:
    samples = [float(sample) * 1e3 for sample in reply.values["samples_s"]]
    if not samples or not all(math.isfinite(sample) and sample > 0 for sample in samples):
        raise MeasurementError(f"a run time must be above 0 ms, not {samples}")
    return samples


def _arrays(reply: WorkerReply) -> tuple[Array, ...]:
    arrays: list[Array] = []
    offset = 0
    for dtype, shape in reply.values["outputs"]:
        count = math.prod(shape)
        array = np.frombuffer(reply.payload, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset += array.nbytes
        arrays.append(array)
    return tuple(arrays)
