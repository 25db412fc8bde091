"""One network's latency and where it goes: what `tvm-mnas bench` shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tvm_mnas.errors import BuildError, DeviceError, MeasurementError
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.roofline import DevicePeak, measure_peak
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.evaluation.untuned import measure_untuned
from tvm_mnas.workflows.model_ref import Shape, resolve_model

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.devices.core.latency import Latency


SCHEMA_VERSION = 2
"""Of what `tvm-mnas bench --json` prints; rises when a key changes its meaning."""

Bound: TypeAlias = Literal["compute", "memory"]
"""What limits a kernel at the core's peak: its arithmetic, or its memory traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTiming:
    """A kernel of the network, the `times` that it is called, and what each call takes.

    `best_us` is the time of its best record, or where it is not `tuned` the time that was measured as TVM builds it by
    itself; `untuned_us` is the latter, None where nobody asked. `share_percent` is its part in the sum of all kernels,
    `schedules` how many were measured for it.

    `limit_us` is the least time by the core's peak for its `flops` and `moved_bytes`, `limit_percent` how near it comes
    to that, `peak_percent` to the peak of arithmetic alone; None without a peak. Operations are those of the kernel as
    it is written: a schedule that skips those on padding may pass 100%.
    """

    kernel: str
    key: str
    times: int
    tuned: bool
    best_us: float
    share_percent: float
    flops: int
    moved_bytes: int
    schedules: int
    peak_percent: float | None = None
    limit_us: float | None = None
    limit_percent: float | None = None
    bound: Bound | None = None
    untuned_us: float | None = None

    @property
    def gflops(self) -> float:
        """Its arithmetic in GFLOP/s."""
        return self.flops / self.best_us / 1e3

    @property
    def speed_up(self) -> float | None:
        """How many times faster the best schedule is than none, None where that is not known."""
        if self.untuned_us is None or not self.tuned:
            return None
        return self.untuned_us / self.best_us

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "gflops": self.gflops, "speed_up": self.speed_up}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """An end-to-end latency, and its kernels with the times that their records promise, the costliest first.

    `agreement` says how far the outputs are from the judge's: torch's, or for an ONNX file ONNX Runtime's.

    With `one_session` every kernel was timed in the session of the latency; else their sum says nothing beside it: the
    device may have been slower or faster then.

    `peak` is what the device's core can do at most, None where that could not be measured: `peak_failure` says why.
    """

    model: str
    latency: Latency
    kernels: tuple[KernelTiming, ...]
    agreement: Agreement
    peak: DevicePeak | None
    one_session: bool
    peak_failure: str | None = None

    @property
    def kernels_ms(self) -> float:
        """The sum of the kernels' times by their records, in milliseconds."""
        return sum(kernel.best_us * kernel.times for kernel in self.kernels) / 1e3

    @property
    def limit_ms(self) -> float | None:
        """The sum of the least times by the core's peak, in milliseconds, None without a peak."""
        return _sum_ms((kernel.limit_us, kernel.times) for kernel in self.kernels)

    @property
    def untuned_ms(self) -> float | None:
        """The sum of the times without a schedule, in milliseconds, None unless all are known."""
        return _sum_ms((kernel.untuned_us, kernel.times) for kernel in self.kernels)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "schema": SCHEMA_VERSION,
            "model": self.model,
            "latency": self.latency.to_dict(),
            "dtype": self.latency.dtype,
            "accumulator": self.latency.accumulator,
            "kernels": [kernel.to_json() for kernel in self.kernels],
            "agreement": asdict(self.agreement),
            "kernels_ms": self.kernels_ms,
            "kernels_in_one_session": self.one_session,
            "peak": None if self.peak is None else self.peak.to_json(),
            "peak_failure": self.peak_failure,
        }


def bench_model(
    model: str,
    options: ToolchainOptions,
    *,
    device: str,
    observer: Observer,
    input_shape: Shape | None = None,
    untuned: bool = False,
) -> BenchResult:
    """Tune what lacks records, compile `model`, check it against its judge and time it.

    `model` is a key of the zoo, a notation, an .onnx or .pt2 file, or RUN:TRIAL; `input_shape` closes what is open in a
    file's shape. With `untuned` each kernel is also timed as TVM builds it by itself, which takes a while.

    Raises:
        ConfigError: if there is no such model.
        CandidateError: if it cannot be lowered, compiled or measured.
        DeviceError: if the device cannot be reached.
    """
    from tvm_mnas.devices.core.profile import load_profile

    subject = resolve_model(model, input_shape=input_shape)
    profile = load_profile(device)
    with open_scratch_toolchain(
        profile,
        options,
        on_warning=observer.note,
    ) as (toolchain, directory):
        observer.stage("lowering", 0, 1)
        loaded = subject.load(seed=options.seed)
        if loaded.assumed is not None:
            observer.note(f"{model}: {loaded.assumed}")
        lowered = loaded.lower(profile)
        toolchain.rehearse(lowered, loaded.judge, directory)
        report = toolchain.tune(
            [lowered], on_progress=lambda done, total: observer.stage("tuning", done, total)
        )
        observer.stage("compiling", 0, 1)
        artifact = toolchain.compile(lowered, directory / "net.so")
        observer.stage("measuring", 0, 1)
        agreement = toolchain.check_network(artifact, loaded.judge, seed=options.seed)
        latency = toolchain.measure(artifact)
        peak, failure = _peak(toolchain, directory)
        kernels = _kernel_timings(lowered, toolchain, peak)
        if untuned:
            kernels = _with_untuned(kernels, lowered, toolchain, directory, observer)
        tuned_now = {kernel.key for kernel in report.kernels}
        return BenchResult(
            model=model,
            latency=latency,
            kernels=kernels,
            agreement=agreement,
            peak=peak,
            one_session=all(kernel.key in tuned_now for kernel in kernels if kernel.tuned),
            peak_failure=failure,
        )


def _peak(toolchain: Toolchain, directory: Path) -> tuple[DevicePeak | None, str | None]:
    """Return the core's peak, or why there is none: a latency that was measured is worth showing without it."""
    try:
        return measure_peak(toolchain, directory), None
    except (BuildError, MeasurementError) as error:
        return None, str(error)


def _kernel_timings(
    lowered: LoweredNetwork, toolchain: Toolchain, peak: DevicePeak | None
) -> tuple[KernelTiming, ...]:
    """Return the kernels, the costliest first; times are those of the best records, or measured without."""
    untuned_us = toolchain.untuned_us(lowered)
    recorded_us = {kernel.key: toolchain.store.best_us(kernel.key) for kernel in lowered.kernels}
    # compile_network refuses a network with a kernel that has neither.
    best_us = {key: untuned_us[key] if us is None else us for key, us in recorded_us.items()}
    total_us = sum(best_us[kernel.key] * kernel.calls for kernel in lowered.kernels)
    timings: list[KernelTiming] = []
    for kernel in lowered.kernels:
        each_us = best_us[kernel.key]
        timing = KernelTiming(
            kernel=kernel.name,
            key=kernel.key,
            times=kernel.calls,
            tuned=recorded_us[kernel.key] is not None,
            best_us=each_us,
            share_percent=100 * each_us * kernel.calls / total_us,
            flops=kernel.flops,
            moved_bytes=kernel.moved_bytes,
            schedules=toolchain.store.schedules(kernel.key),
        )
        timings.append(timing if peak is None else _with_limit(timing, peak))
    return tuple(sorted(timings, key=lambda timing: -timing.share_percent))


def _with_limit(timing: KernelTiming, peak: DevicePeak) -> KernelTiming:
    """Return `timing` with how near it comes to the core's peak."""
    compute_us = peak.compute_us(timing.flops)
    limit_us = peak.limit_us(timing.flops, timing.moved_bytes)
    return replace(
        timing,
        peak_percent=100 * compute_us / timing.best_us,
        limit_us=limit_us,
        limit_percent=100 * limit_us / timing.best_us,
        bound="compute" if compute_us >= limit_us else "memory",
    )


def _with_untuned(
    timings: Sequence[KernelTiming],
    lowered: LoweredNetwork,
    toolchain: Toolchain,
    directory: Path,
    observer: Observer,
) -> tuple[KernelTiming, ...]:
    """Return `timings` with the time of each kernel as TVM builds it by itself, where that runs."""
    kernels = {kernel.key: kernel for kernel in lowered.kernels}
    found: list[KernelTiming] = []
    for done, timing in enumerate(timings):
        observer.stage("untuned kernels", done, len(timings))
        # One without a record was timed that way already, to learn its share.
        untuned_us: float | None = timing.best_us
        if timing.tuned:
            untuned_us = None
            with contextlib.suppress(DeviceError):
                untuned_us = measure_untuned(
                    kernels[timing.key], directory, profile=toolchain.profile, farm=toolchain.farm
                )
        found.append(replace(timing, untuned_us=untuned_us))
    return tuple(found)


def _sum_ms(times: Iterable[tuple[float | None, int]]) -> float | None:
    """Return the sum in milliseconds of times in microseconds, each so often; None if one is not known."""
    total_us = 0.0
    for each_us, calls in times:
        if each_us is None:
            return None
        total_us += each_us * calls
    return total_us / 1e3
