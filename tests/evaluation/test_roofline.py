"""The roofline: limits from probes' times, and from probes that ran on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.cores.precision import Dtype
from tvm_mnas.devices.core.profile import DeviceProfile
from tvm_mnas.devices.farm import runner
from tvm_mnas.errors import MeasurementError
from tvm_mnas.evaluation.roofline import DevicePeak, measure_peak, peak_of
from tvm_mnas.workflows.bench import KernelTiming, _with_limit

KIB = 1024
PEAK = DevicePeak(100e9, ((16 * KIB, 400e9), (1024 * KIB, 100e9), (65536 * KIB, 50e9)))


def test_the_best_probe_of_each_kind_counts() -> None:
    peak = peak_of(
        [
            (1000, 0, 1e-6),
            (1000, 0, 5e-7),
            (0, 64, 1e-6),
            (0, 64, 2e-6),
            (0, 16, 1e-6),
        ],
        failure="",
    )
    assert peak.flops_per_s == pytest.approx(2e9)
    assert peak.bandwidths == ((16, pytest.approx(16e6)), (64, pytest.approx(64e6)))


@pytest.mark.parametrize("timed", [[], [(1000, 0, 1e-6)], [(0, 64, 1e-6)]])
def test_half_a_peak_is_none(timed: Sequence[tuple[int, int, float]]) -> None:
    with pytest.raises(MeasurementError, match="timeout: it hung"):
        peak_of(timed, failure="timeout: it hung")


@pytest.mark.parametrize(
    ("size_bytes", "bandwidth"),
    [
        (1, 400e9),
        (16 * KIB, 400e9),
        # Between two probes the faster of them, so that a limit is never too low a speed.
        (1023 * KIB, 400e9),
        (1024 * KIB, 100e9),
        (1 << 30, 50e9),
    ],
)
def test_memory_is_as_fast_as_the_largest_probe_that_fits(
    size_bytes: int, bandwidth: float
) -> None:
    assert PEAK.memory_us(size_bytes) == pytest.approx(size_bytes / bandwidth * 1e6)


def test_a_smaller_probe_that_was_disturbed_does_not_lower_the_limit() -> None:
    disturbed = DevicePeak(1e9, ((16 * KIB, 10e9), (1024 * KIB, 100e9)))
    assert disturbed.memory_us(16 * KIB) == pytest.approx(16 * KIB / 100e9 * 1e6)


def test_the_limit_is_what_takes_longer() -> None:
    # 1 MFLOP at 100 GFLOP/s: 10 us; 1 MiB at 100 GB/s: 10.49 us.
    assert PEAK.limit_us(1_000_000, 16 * KIB) == pytest.approx(10)
    assert PEAK.limit_us(1_000_000, 1024 * KIB) == pytest.approx(10.48576)
    compute = _with_limit(_timing(1_000_000, 16 * KIB), PEAK)
    memory = _with_limit(_timing(0, 1024 * KIB), PEAK)
    assert (compute.bound, memory.bound) == ("compute", "memory")
    assert compute.limit_percent == compute.peak_percent == pytest.approx(50)
    assert memory.limit_percent == pytest.approx(52.4288)
    assert memory.peak_percent == 0


def test_without_a_peak_a_kernel_has_no_limit() -> None:
    values = _timing(10, 20).to_json()
    assert values["limit_percent"] is None and values["bound"] is None


def _timing(flops: int, moved_bytes: int) -> KernelTiming:
    return KernelTiming(
        kernel="kernel",
        key="key",
        times=1,
        tuned=True,
        best_us=20.0,
        share_percent=100.0,
        flops=flops,
        moved_bytes=moved_bytes,
        schedules=8,
    )


@pytest.mark.parametrize(
    ("flops_per_s", "bandwidths"), [(0.0, ((1, 1.0),)), (1.0, ()), (1.0, ((2, 1.0), (1, 1.0)))]
)
def test_a_peak_that_makes_no_sense_is_refused(
    flops_per_s: float, bandwidths: tuple[tuple[int, float], ...]
) -> None:
    with pytest.raises(MeasurementError):
        DevicePeak(flops_per_s, bandwidths)


@pytest.mark.parametrize(
    ("dtype", "lanes", "cpu"),
    [
        ("float32", 8, "haswell"),
        ("float16", 32, "sapphirerapids"),
        # Pairs of them, 16 sums in a vector.
        ("bfloat16", 32, "sapphirerapids"),
    ],
)
def test_probes_that_fail_on_the_device_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype, lanes: int, cpu: str
) -> None:
    def measure(farm: Any, path: Path, arguments: Any, **_: Any) -> list[float] | str:
        if path.name.startswith("sums-16"):
            return "crash: signal 4"
        return [3e-3, 1e-3, 2e-3]

    monkeypatch.setattr(runner, "measure_kernel", measure)
    # For a core that has such vectors: LLVM takes its time to split them for one that has not.
    target = json.dumps({"kind": "llvm", "mcpu": cpu, "num-cores": 1})
    toolchain: Any = SimpleNamespace(
        profile=DeviceProfile(key="x", target=target, dtype=dtype),
        farm=None,
    )
    peak = measure_peak(toolchain, tmp_path)
    # 20,000 steps of 24 sums of so many lanes, in the best of the three times.
    assert peak.flops_per_s == pytest.approx(2 * 20_000 * 24 * lanes / 1e-3)
    assert peak.bandwidths[0] == (16 * KIB, pytest.approx(16 * KIB / 1e-3))
    monkeypatch.setattr(runner, "measure_kernel", lambda *a, **b: "crash: signal 4")
    with pytest.raises(MeasurementError, match="signal 4"):
        measure_peak(toolchain, tmp_path)
