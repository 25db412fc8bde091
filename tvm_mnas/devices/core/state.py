"""A device's clocks and heat at one moment, and what two of them say about a latency measured in between.

Imports neither TVM nor torch: a state is stored with each latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from tvm_mnas.errors import MeasurementError

CLOCK_DROP = 0.1
"""A clock that is lower after a measurement than before by more than this part of it makes the latency doubtful."""

_NUMBERS = ("frequency_khz", "limit_khz", "max_khz", "temperature_mc", "throttled_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Clocks and heat of the core that runs the code; `None` is what could not be read there.

    `frequency_khz` is the clock at that moment, `limit_khz` what it might be at most then, `max_khz` what the core can
    do; `governor` sets it; `temperature_mc` is the hottest sensor's, in thousandths of a degree Celsius; `throttled_us`
    how long a container's quota had stopped the server by then.
    """

    frequency_khz: int | None = None
    limit_khz: int | None = None
    max_khz: int | None = None
    governor: str | None = None
    temperature_mc: int | None = None
    throttled_us: int | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise MeasurementError(f"{name} must be a whole number, not {value!r}")
        if self.governor is not None and (not isinstance(self.governor, str) or not self.governor):
            raise MeasurementError(f"governor must be a text, not {self.governor!r}")

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> DeviceState | None:
        """Return the state of what a server tells, `None` where it tells nothing; what makes no sense is left out."""
        found: dict[str, int | str] = {}
        for name in _NUMBERS:
            text = texts.get(name, "")
            if text.removeprefix("-").isdecimal():
                found[name] = int(text)
        if texts.get("governor"):
            found["governor"] = texts["governor"]
        return cls(**found) if found else None  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, int | str]:
        """Return what is known as plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, data: object) -> DeviceState:
        """Return the state that `to_dict` wrote; raises MeasurementError where anything is off."""
        if not isinstance(data, Mapping):
            raise MeasurementError(f"a device's state must be a table, not {data!r}")
        try:
            return cls(**data)
        except TypeError as error:
            raise MeasurementError(
                f"a stored state has other fields than expected: {error}"
            ) from error


def state_warnings(
    before: DeviceState | None, after: DeviceState | None, *, max_temperature_c: float | None
) -> Iterator[str]:
    """Yield why a latency measured between two states is doubtful: a clock that fell, a quota, heat."""
    if after is None:
        return
    if before is not None:
        for name, what in (("frequency_khz", "clock"), ("limit_khz", "limit of the clock")):
            first, last = getattr(before, name), getattr(after, name)
            if first is not None and last is not None and last < (1 - CLOCK_DROP) * first:
                yield f"{what} {first / 1e3:.0f} -> {last / 1e3:.0f} MHz"
                break
        stopped_us = (after.throttled_us or 0) - (before.throttled_us or 0)
        if stopped_us > 0:
            yield f"stopped for {stopped_us / 1e3:.3g} ms by the container's processor quota"
    heat_mc = after.temperature_mc
    if heat_mc is not None and max_temperature_c is not None and heat_mc > 1e3 * max_temperature_c:
        yield f"{heat_mc / 1e3:.0f} degrees Celsius, above the profile's {max_temperature_c:g}"
