"""Latency: its figures follow from its samples, and nothing else can be built or loaded."""

from __future__ import annotations

import json
import statistics
from dataclasses import FrozenInstanceError, replace

import pytest

from tvm_mnas.devices.core.latency import Coverage, Latency, format_percent, spread_of
from tvm_mnas.devices.core.state import DeviceState
from tvm_mnas.errors import MeasurementError

LATENCY = Latency(
    samples_ms=(2.0, 1.0, 4.0, 3.0, 5.0),
    device_key="local",
    fingerprint="0123456789ab",
    target='{"kind": "llvm"}',
    tvm_version="0.27",
    measured_at="2026-01-02T03:04:05+00:00",
    emulated=False,
    max_spread=0.1,
    coverage=Coverage(kernels=4, tuned_kernels=3, schedules=96, tuned_share=0.97),
)


def test_median_and_spread_follow_from_the_samples() -> None:
    assert LATENCY.latency_ms == statistics.median(LATENCY.samples_ms) == 3.0
    assert LATENCY.spread == pytest.approx((4.0 - 2.0) / 3.0)
    assert LATENCY.noisy
    assert not replace(LATENCY, samples_ms=(3.0, 3.01, 3.02)).noisy
    assert spread_of([1.0]) == 0.0
    with pytest.raises(FrozenInstanceError):
        LATENCY.emulated = True  # type: ignore[misc]


def test_json_round_trip_keeps_everything_and_shows_the_figures() -> None:
    emulated = replace(LATENCY, emulated=True)
    half = replace(LATENCY, dtype="float16", accumulator="float16")
    for latency in (LATENCY, emulated, half, replace(half, accumulator="float32")):
        assert Latency.from_json(latency.to_json()) == latency
    data = json.loads(emulated.to_json())
    assert data["latency_ms"] == 3.0
    assert data["emulated"] is True
    assert data["noisy"] is True


def test_a_latency_of_float32_is_stored_as_it_always_was() -> None:
    assert not {"dtype", "accumulator"} & LATENCY.to_dict().keys()
    half = replace(LATENCY, dtype="float16", accumulator="float32").to_dict()
    assert (half["dtype"], half["accumulator"]) == ("float16", "float32")


@pytest.mark.parametrize(
    "change",
    [
        {"samples_ms": ()},
        {"samples_ms": (1.0, -1.0)},
        {"samples_ms": (0.0,)},
        {"samples_ms": (float("nan"),)},
        {"samples_ms": (float("inf"),)},
        {"samples_ms": ("1",)},
        {"samples_ms": [1.0]},
        {"emulated": None},
        {"emulated": "no"},
        {"fingerprint": ""},
        {"max_spread": 0},
        {"attempts": 0},
        {"state_after": {"frequency_khz": 1}},
        {"max_temperature_c": 0},
        {"reference_ms": 0.0},
        {"dtype": "float64"},
        {"dtype": None},
        {"accumulator": "float16"},
        {"reference_change": -1.0},
        {"reference_change": float("nan")},
        {"measured_at": "yesterday"},
        {"measured_at": "2026-01-02T03:04:05"},
        {"measured_at": "2026-01-02T03:04:05+02:00"},
    ],
)
def test_an_illegal_latency_cannot_be_built(change: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        replace(LATENCY, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"kernels": -1}, {"tuned_kernels": 5}, {"tuned_share": 1.1}, {"tuned_share": float("nan")}],
)
def test_an_illegal_coverage_cannot_be_built(change: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        replace(LATENCY.coverage, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ms": 0.003},  # seconds where milliseconds belong
        {"spread": 0.0},
        {"samples_ms": "fast"},
        {"samples_ms": None},
        {"state_before": 3},
        {"state_before": {"frequency": 1}},
        {"reference_change": "a lot"},
        {"coverage": 3},
        {"coverage": {"kernels": 1, "surplus": 2}},
        {"surplus": 1},
    ],
)
def test_a_stored_latency_that_contradicts_itself_does_not_load(change: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        Latency.from_json(json.dumps(LATENCY.to_dict() | change))


@pytest.mark.parametrize(
    ("share", "flag"),
    [
        (None, None),
        (1.0, None),
        (0.969, "3.1% of it in untuned kernels"),
        (0.588, "41.2% of it in untuned kernels"),
        (0.0, "100.0% of it in untuned kernels"),
        # However small, a part is never shown as none.
        (0.99996, "0.004% of it in untuned kernels"),
    ],
)
def test_a_latency_says_how_much_of_it_is_in_untuned_kernels(
    share: float | None, flag: str | None
) -> None:
    latency = replace(LATENCY, coverage=replace(LATENCY.coverage, tuned_share=share))
    assert latency.untuned_flag == flag
    assert Latency.from_json(latency.to_json()).untuned_flag == flag


def test_a_stored_latency_without_its_emulated_flag_does_not_load() -> None:
    data = LATENCY.to_dict()
    del data["emulated"]
    with pytest.raises(MeasurementError, match="emulated"):
        Latency.from_dict(data)
    with pytest.raises(MeasurementError, match="JSON"):
        Latency.from_json("{")


@pytest.mark.parametrize(
    ("percent", "text"),
    [(0.0, "0.0"), (3.14, "3.1"), (0.1, "0.1"), (0.0049, "0.005"), (100, "100.0")],
)
def test_a_small_percentage_is_not_shown_as_none(percent: float, text: str) -> None:
    assert format_percent(percent) == text


def test_a_device_that_changed_is_told_and_stored_with_the_latency() -> None:
    changed = replace(
        LATENCY,
        state_before=DeviceState(frequency_khz=2_400_000),
        state_after=DeviceState(frequency_khz=1_800_000, temperature_mc=85_000),
        max_temperature_c=80.0,
        reference_ms=0.5,
        reference_change=0.25,
    )
    assert changed.warnings == (
        "clock 2400 -> 1800 MHz",
        "85 degrees Celsius, above the profile's 80",
        "the device's reference kernel takes 25.0% longer than before",
    )
    assert json.loads(changed.to_json())["warnings"] == list(changed.warnings)
    assert Latency.from_json(changed.to_json()) == changed
    assert replace(changed, emulated=True).warnings == ()
    assert replace(LATENCY, reference_change=LATENCY.max_spread).warnings == ()
    assert "25.0% less" in replace(LATENCY, reference_change=-0.25).warnings[0]


def test_what_nobody_looked_at_is_not_written_and_need_not_be_there() -> None:
    data = LATENCY.to_dict()
    for name in ("state_before", "state_after", "max_temperature_c", "reference_ms", "warnings"):
        assert name not in data
    assert Latency.from_dict(data).warnings == ()
