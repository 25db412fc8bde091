"""One network's latency and where it goes: what `tvm-mnas bench` shows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import BuildError, DeviceError, LoweringError, MeasurementError
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.roofline import DevicePeak, measure_peak
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.evaluation.untuned import measure_untuned
from tvm_mnas.workflows.model_ref import resolve_model

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.devices.core.latency import Latency


@dataclass(frozen=True, slots=True)
class BenchResult:
    """An end-to-end latency, and a row per kernel with the time that its record promises.

    A kernel that is not `tuned` has the time that was measured as TVM builds it by itself.

    `difference` is how far the outputs are from torch's, or for an ONNX file from those of ONNX's own reference; None
    where that cannot compute it, and `unchecked` says why. `peak` is what the device's core can do at most, None where
    that could not be measured: `peak_failure` says why.
    """

    model: str
    latency: Latency
    kernels: list[dict[str, Any]]
    difference: float | None
    peak: DevicePeak | None
    peak_failure: str | None = None
    unchecked: str | None = None

    @property
    def kernels_ms(self) -> float:
        """The sum of the kernels' times by their records, in milliseconds."""
        return sum(float(row["best_us"]) * int(row["times"]) for row in self.kernels) / 1e3

    @property
    def peak_line(self) -> str:
        """The core's peak in a line, or why there is none."""
        if self.peak is None:
            return f"the core's peak could not be measured: {self.peak_failure}"
        least_ms = sum(row["limit_us"] * row["times"] for row in self.kernels) / 1e3
        return (
            f"{self.peak.line}; all kernels at their limit {least_ms:.4g} ms, "
            f"{least_ms / self.latency.latency_ms:.0%} of the end-to-end latency"
        )

    @property
    def line(self) -> str:
        """The result in a line."""
        latency = self.latency
        flag = f", {latency.untuned_flag}" if latency.untuned_flag else ""
        noisy = f", above the profile's {latency.max_spread:.0%}" if latency.noisy else ""
        by = "by their records"
        if not all(row["tuned"] for row in self.kernels):
            by += " or, untuned, their own times"
        text = (
            f"{latency.latency_ms:.4g} ms end to end on {latency.device_key} "
            f"(median of {len(latency.samples_ms)}, spread {latency.spread:.1%}{noisy}){flag}; "
            f"the sum of its kernels {by} is {self.kernels_ms:.4g} ms, "
            f"{self.kernels_ms / latency.latency_ms:.0%} of it"
        )
        untuned = [row["untuned_us"] for row in self.kernels]
        if untuned and all(time_us is not None for time_us in untuned):
            total_ms = sum(row["untuned_us"] * row["times"] for row in self.kernels) / 1e3
            text += f"; untuned they are {total_ms:.4g} ms"
        if self.unchecked is not None:
            text += f"; outputs NOT CHECKED: {self.unchecked}"
        text += "".join(f"; UNSTABLE DEVICE: {warning}" for warning in latency.warnings)
        return f"{text}; EMULATED, not a latency" if latency.emulated else text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "latency": self.latency.to_dict(),
            "kernels": self.kernels,
            "largest_relative_difference": self.difference,
            "unchecked": self.unchecked,
            "kernels_ms": self.kernels_ms,
            "peak": None if self.peak is None else self.peak.to_json(),
            "peak_failure": self.peak_failure,
        }


def bench_model(
    model: str,
    options: ToolchainOptions,
    *,
    device: str,
    observer: Observer,
    untuned: bool = False,
) -> BenchResult:
    """Tune what lacks records, compile `model`, check it against torch and time it.

    `model` is a key of the zoo, a notation, an .onnx file, or RUN:TRIAL. With `untuned` each kernel is also
    timed as TVM builds it by itself, which takes a while.

    Raises:
        ConfigError: if there is no such model.
        CandidateError: if it cannot be lowered, compiled or measured.
        DeviceError: if the device cannot be reached.
    """
    from tvm_mnas.devices.core.profile import load_profile

    subject = resolve_model(model)
    profile = load_profile(device)
    with open_scratch_toolchain(
        profile,
        options,
        on_warning=observer.note,
    ) as (toolchain, directory):
        observer.stage("lowering", 0, 1)
        network = subject.build(seed=options.seed)
        lowered = subject.lower(network, profile.target)
        toolchain.tune(
            [lowered], on_progress=lambda done, total: observer.stage("tuning", done, total)
        )
        observer.stage("compiling", 0, 1)
        artifact = toolchain.compile(lowered, directory / "net.so")
        observer.stage("measuring", 0, 1)
        difference, unchecked = None, None
        try:
            difference = toolchain.check_network(
                artifact, partial(subject.outputs, network), lowered.input_shape, seed=options.seed
            )
        except LoweringError as error:
            # Nothing to compare with is no reason to keep the time back; the result says so.
            unchecked = str(error)
        latency = toolchain.measure(artifact, lowered.input_shape)
        peak, failure = _peak(toolchain, directory)
        rows = _kernel_rows(lowered, toolchain, peak)
        if untuned:
            _add_untuned(rows, lowered, toolchain, directory, observer)
        return BenchResult(model, latency, rows, difference, peak, failure, unchecked)


def _peak(toolchain: Toolchain, directory: Path) -> tuple[DevicePeak | None, str | None]:
    """Return the core's peak, or why there is none: a latency that was measured is worth showing without it."""
    try:
        return measure_peak(toolchain, directory), None
    except (BuildError, MeasurementError) as error:
        return None, str(error)


def _kernel_rows(
    lowered: LoweredNetwork, toolchain: Toolchain, peak: DevicePeak | None
) -> list[dict[str, Any]]:
    """Return a row per kernel, the costliest first; times are those of the best records, or measured without."""
    untuned_us = toolchain.untuned_us(lowered)
    rows: list[dict[str, Any]] = []
    for kernel in lowered.kernels:
        recorded_us = toolchain.store.best_us(kernel.key)
        # compile_network refuses a network with a kernel that has neither.
        best_us = untuned_us[kernel.key] if recorded_us is None else recorded_us
        rows.append(
            {
                "kernel": kernel.name,
                "key": kernel.key,
                "times": kernel.calls,
                "tuned": recorded_us is not None,
                "best_us": best_us,
                "gflops": kernel.flops / best_us / 1e3,
                **_limit(kernel.flops, kernel.moved_bytes, best_us, peak),
                "trials": toolchain.store.schedules(kernel.key),
                "untuned_us": None,
                "speed_up": None,
            }
        )
    total = sum(row["best_us"] * row["times"] for row in rows)
    for row in rows:
        row["share_percent"] = 100 * row["best_us"] * row["times"] / total
    return _costliest_first(rows)


def _limit(flops: int, size: int, best_us: float, peak: DevicePeak | None) -> dict[str, Any]:
    """Return how near a kernel comes to the core's peak, and to the limit of arithmetic and memory together.

    Operations are those of the kernel as it is written: a schedule that skips those on padding may pass 100%.
    """
    values: dict[str, Any] = {"flops": flops, "bytes": size}
    if peak is None:
        return {
            **values,
            "peak_percent": None,
            "limit_us": None,
            "limit_percent": None,
            "bound": None,
        }
    compute_us, memory_us = peak.compute_us(flops), peak.memory_us(size)
    limit_us = max(compute_us, memory_us)
    return {
        **values,
        "peak_percent": 100 * compute_us / best_us,
        "limit_us": limit_us,
        "limit_percent": 100 * limit_us / best_us,
        "bound": "compute" if compute_us >= memory_us else "memory",
    }


def _add_untuned(
    rows: list[dict[str, Any]],
    lowered: LoweredNetwork,
    toolchain: Toolchain,
    directory: Path,
    observer: Observer,
) -> None:
    kernels = {kernel.key: kernel for kernel in lowered.kernels}
    for done, row in enumerate(rows):
        observer.stage("untuned kernels", done, len(rows))
        if not row["tuned"]:
            # It was timed that way already, to learn its share.
            row["untuned_us"] = row["best_us"]
            continue
        with contextlib.suppress(DeviceError):
            row["untuned_us"] = measure_untuned(
                kernels[row["key"]], directory, profile=toolchain.profile, farm=toolchain.farm
            )
        if row["untuned_us"] is not None:
            row["speed_up"] = row["untuned_us"] / row["best_us"]


def _costliest_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -float(row["share_percent"]))
