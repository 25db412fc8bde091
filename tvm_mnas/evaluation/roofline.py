"""What a device's core can do at most, and how near to it a kernel comes: the roofline model.

Williams, Waterman and Patterson, "Roofline" (CACM 2009): a kernel takes at least its arithmetic at the peak rate, and
at least its memory traffic at the peak bandwidth. Both peaks are measured by small kernels on the device, through
the same farm and timer as everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import MeasurementError

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.probes import Probe
    from tvm_mnas.evaluation.toolchain import Toolchain

_DEADLINE_S = 20.0
_LEASE_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class DevicePeak:
    """The most that one core was seen to do.

    `flops_per_s` is its arithmetic (two per multiply-add, in the type of the profile's sums), `bandwidths` are pairs of
    bytes gone through and bytes per second, by size: what fits a cache is read faster.
    """

    flops_per_s: float
    bandwidths: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.flops_per_s > 0:
            raise MeasurementError(f"a peak must be above 0 flop/s, not {self.flops_per_s!r}")
        if not self.bandwidths or list(self.bandwidths) != sorted(self.bandwidths):
            raise MeasurementError(
                f"bandwidths must be by size, smallest first, not {self.bandwidths}"
            )

    def compute_us(self, flops: int) -> float:
        """Return the least time for so much arithmetic, in microseconds."""
        return flops / self.flops_per_s * 1e6

    def memory_us(self, size_bytes: int) -> float:
        """Return the least time to go through so much memory once, in microseconds.

        The bandwidth is the best of any probe from the largest that is no larger than this on: never too low, so
        that the limit is a limit.
        """
        floor = max(
            (size for size, _ in self.bandwidths if size <= size_bytes),
            default=self.bandwidths[0][0],
        )
        return size_bytes / max(rate for size, rate in self.bandwidths if size >= floor) * 1e6

    def limit_us(self, flops: int, size_bytes: int) -> float:
        """Return the least time in microseconds for a kernel with so much arithmetic and memory."""
        return max(self.compute_us(flops), self.memory_us(size_bytes))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "gflops": self.flops_per_s / 1e9,
            "bandwidths": [
                {"size_bytes": size, "gb_per_s": rate / 1e9} for size, rate in self.bandwidths
            ],
        }


def measure_peak(toolchain: Toolchain, directory: Path) -> DevicePeak:
    """Return what the device's core can do at most; `directory` takes the probes.

    Raises:
        BuildError: if a probe does not build for the device.
        MeasurementError: if no probe of arithmetic, or none of memory, ran there.
    """
    from tvm_mnas.compiler.build.probes import build_probes
    from tvm_mnas.compiler.core.linking import find_linker
    from tvm_mnas.devices.core.profile import TimingSettings
    from tvm_mnas.devices.farm.runner import measure_kernel

    target = toolchain.profile.target
    precision = toolchain.profile.precision
    # Products of float16 that are summed in float32 are products of float32.
    products = precision.accumulator if precision.dtype == "float16" else precision.dtype
    probes = build_probes(target, directory, linker=find_linker(target), dtype=products)
    timing = TimingSettings(repeat=10, min_repeat_ms=5, warmup=0, attempts=1)
    timed: list[tuple[Probe, float]] = []
    failure = "none was built"
    for probe in probes:
        seconds = measure_kernel(
            toolchain.farm,
            probe.path,
            probe.arguments,
            timing=timing,
            deadline_s=_DEADLINE_S,
            lease_deadline_s=_LEASE_DEADLINE_S,
        )
        if isinstance(seconds, str):
            failure = seconds
        else:
            timed.append((probe, min(seconds)))
    return peak_of(
        [(probe.flops, probe.size_bytes, seconds) for probe, seconds in timed], failure=failure
    )


def peak_of(timed: Sequence[tuple[int, int, float]], *, failure: str) -> DevicePeak:
    """Return the peak that `timed` probes (flops, bytes, seconds) show; `failure` says why others did not run.

    Raises:
        MeasurementError: if there is none of arithmetic, or none of memory.
    """
    rates = [flops / seconds for flops, _, seconds in timed if flops]
    bandwidths: dict[int, float] = {}
    for _, size, seconds in timed:
        if size:
            bandwidths[size] = max(bandwidths.get(size, 0.0), size / seconds)
    if not rates or not bandwidths:
        raise MeasurementError(
            f"a core's peak is what probes of arithmetic and of memory show, and not both ran: {failure}"
        )
    return DevicePeak(max(rates), tuple(sorted(bandwidths.items())))
