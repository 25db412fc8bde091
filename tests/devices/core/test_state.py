"""Clocks and heat: what is read, stored and held against a latency."""

from __future__ import annotations

import pytest

from tvm_mnas.devices.core.state import CLOCK_DROP, DeviceState, state_warnings
from tvm_mnas.errors import MeasurementError

FAST = DeviceState(frequency_khz=2_400_000, limit_khz=2_400_000, temperature_mc=45_000)


def test_what_a_server_tells_is_read_and_nonsense_left_out() -> None:
    told = {
        "frequency_khz": "1800000",
        "limit_khz": "soon",
        "governor": "performance",
        "temperature_mc": "-2000",
        "colour": "red",
    }
    state = DeviceState.read(told)
    assert state == DeviceState(
        frequency_khz=1_800_000, governor="performance", temperature_mc=-2000
    )
    assert DeviceState.read({}) is None
    assert DeviceState.read({"limit_khz": "-"}) is None


def test_a_state_comes_back_from_its_table_and_no_other_does() -> None:
    for state in (FAST, DeviceState(governor="schedutil"), DeviceState()):
        assert DeviceState.from_dict(state.to_dict()) == state
    for table in (3, {"surplus": 1}, {"limit_khz": 1.5}, {"governor": ""}, {"max_khz": True}):
        with pytest.raises(MeasurementError):
            DeviceState.from_dict(table)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (FAST, FAST, []),
        (None, None, []),
        (FAST, None, []),
        (None, FAST, []),
        (DeviceState(), DeviceState(), []),
        (FAST, DeviceState(frequency_khz=1_800_000), ["clock 2400 -> 1800 MHz"]),
        (FAST, DeviceState(frequency_khz=int(2_400_000 * (1 - CLOCK_DROP))), []),
        (DeviceState(frequency_khz=600_000), FAST, []),
        (FAST, DeviceState(limit_khz=1_200_000), ["limit of the clock 2400 -> 1200 MHz"]),
        (None, DeviceState(temperature_mc=81_000), ["81 degrees Celsius, above the profile's 80"]),
        (None, DeviceState(temperature_mc=80_000), []),
        (DeviceState(throttled_us=100), DeviceState(throttled_us=100), []),
        (None, DeviceState(throttled_us=5_000), []),
        (DeviceState(), DeviceState(governor="performance"), []),
        (
            DeviceState(throttled_us=100),
            DeviceState(throttled_us=12_600),
            ["stopped for 12.5 ms by the container's processor quota"],
        ),
    ],
)
def test_a_clock_that_fell_and_too_much_heat_are_told(
    before: DeviceState | None, after: DeviceState | None, found: list[str]
) -> None:
    assert list(state_warnings(before, after, max_temperature_c=80)) == found
    assert not any(
        "Celsius" in text for text in state_warnings(before, after, max_temperature_c=None)
    )
