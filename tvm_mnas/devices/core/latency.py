"""A latency: measured, never predicted, with everything one needs to judge or repeat it.

There is no way to make one without samples, and its figures are computed from them, so a file in which the
median and the samples disagree does not load. Imports neither TVM nor torch.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from tvm_mnas.cores.precision import FLOAT32, Dtype, Precision
from tvm_mnas.devices.core.state import DeviceState, state_warnings
from tvm_mnas.errors import MeasurementError, ProfileError

_RELATIVE_TOLERANCE = 1e-9
_OPTIONAL = (
    *("state_before", "state_after", "max_temperature_c"),
    *("reference_ms", "reference_change", "device_name"),
)
"""What is left out of a file where it is not known."""
_RENAMED = {"trials": "schedules"}
_WARNINGS_ONCE = "doubts"
"""What files of version 0.1 call a coverage's schedules, and the warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How well a compiled network is tuned; the compiler knows, a latency carries it along.

    `kernels` and `tuned_kernels` count distinct kernels, `schedules` the measured schedules behind them,
    `tuned_share` is the part (0..1) of the run time that is spent in tuned kernels, `None` where unknown.
    """

    kernels: int = 0
    tuned_kernels: int = 0
    schedules: int = 0
    tuned_share: float | None = None

    def __post_init__(self) -> None:
        for name in ("kernels", "tuned_kernels", "schedules"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise MeasurementError(f"{name} must be a whole number >= 0, not {value!r}")
        if self.tuned_kernels > self.kernels:
            raise MeasurementError(
                f"tuned_kernels must not exceed kernels ({self.kernels}), not {self.tuned_kernels}"
            )
        share = self.tuned_share
        if share is not None and not (_is_number(share) and 0.0 <= share <= 1.0):
            raise MeasurementError(f"tuned_share must lie in 0..1, not {share!r}")

    @property
    def untuned_percent(self) -> float | None:
        """The part of the run time spent in kernels without a record, in percent, `None` where unknown."""
        return None if self.tuned_share is None else 100.0 * (1.0 - self.tuned_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One network's time on one device.

    `samples_ms` are the repeats of one measurement, each the mean of several runs; `max_spread` the bound
    that the device's profile sets; `attempts` how often it was measured until the spread was below it;
    `emulated` is true where the device is an emulator, whose times rank nothing; `measured_at` is an ISO
    time with its UTC offset.

    `state_before` and `state_after` are the device's clocks and heat around it, `max_temperature_c` the bound that the
    profile sets to the latter. `reference_ms` is what the device took for its reference kernel right after the samples,
    `reference_change` how much longer that is than the device's level, as a part of it: 0.2 is a fifth longer. The
    level is what it took when this process first met the device, until a change lasts. `device_name` is the one of
    the farm's devices that it was. `None` is what nobody looked at, or an older version wrote.

    The network was computed in `dtype`, its sums in `accumulator`.
    """

    samples_ms: tuple[float, ...]
    device_key: str
    fingerprint: str
    target: str
    tvm_version: str
    measured_at: str
    emulated: bool
    max_spread: float
    attempts: int = 1
    method: str = "rpc time_evaluator"
    coverage: Coverage = Coverage()
    state_before: DeviceState | None = None
    state_after: DeviceState | None = None
    max_temperature_c: float | None = None
    reference_ms: float | None = None
    reference_change: float | None = None
    device_name: str | None = None
    dtype: Dtype = "float32"
    accumulator: Dtype = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.samples_ms, tuple) or not self.samples_ms:
            raise MeasurementError(f"a latency needs a tuple of samples, not {self.samples_ms!r}")
        for sample in self.samples_ms:
            if not (_is_number(sample) and math.isfinite(sample) and sample > 0):
                raise MeasurementError(f"a sample must be a time above 0 ms, not {sample!r}")
        for name in ("device_key", "fingerprint", "target", "tvm_version", "method"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise MeasurementError(f"{name} of a latency must be a text, not {value!r}")
        if not isinstance(self.emulated, bool):
            raise MeasurementError(f"emulated must be true or false, not {self.emulated!r}")
        if not (_is_number(self.max_spread) and self.max_spread > 0):
            raise MeasurementError(f"max_spread must be above 0, not {self.max_spread!r}")
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise MeasurementError(f"attempts must be a whole number >= 1, not {self.attempts!r}")
        for name in ("state_before", "state_after"):
            if not isinstance(getattr(self, name), DeviceState | None):
                raise MeasurementError(f"{name} must be a state, not {getattr(self, name)!r}")
        if self.device_name is not None and not isinstance(self.device_name, str):
            raise MeasurementError(f"device_name must be a text, not {self.device_name!r}")
        for name, least in (
            ("max_temperature_c", 0.0),
            ("reference_ms", 0.0),
            ("reference_change", -1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (
                _is_number(value) and math.isfinite(value) and value > least
            ):
                raise MeasurementError(f"{name} must be above {least:g}, not {value!r}")
        try:
            Precision(self.dtype, self.accumulator)
        except ProfileError as error:
            raise MeasurementError(f"{error} in a latency") from error
        _check_utc(self.measured_at)

    @property
    def precision(self) -> Precision:
        """In which formats the network was computed."""
        return Precision(self.dtype, self.accumulator)

    @property
    def latency_ms(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples_ms)

    @property
    def spread(self) -> float:
        """The interquartile range divided by the median; 0 for a single sample."""
        return spread_of(self.samples_ms)

    @property
    def noisy(self) -> bool:
        """Whether the spread stayed beyond the profile's bound after every attempt."""
        return self.spread > self.max_spread

    @property
    def drifted(self) -> bool:
        """Whether the device's reference kernel took a time beyond the profile's spread from its level."""
        change = self.reference_change
        return change is not None and abs(change) > self.max_spread

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the latency may not be the device's usual one: its clock, its heat, its reference kernel. Often empty.

        An emulator's times are never judged.
        """
        if self.emulated:
            return ()
        found = list(
            state_warnings(
                self.state_before, self.state_after, max_temperature_c=self.max_temperature_c
            )
        )
        if self.drifted:
            assert self.reference_change is not None
            found.append(change_text(self.reference_change))
        return tuple(found)

    @property
    def tuned_share(self) -> float | None:
        """The part (0..1) of the run time spent in tuned kernels, `None` where unknown."""
        return self.coverage.tuned_share

    @property
    def untuned_flag(self) -> str | None:
        """What has to stand beside the latency where kernels without a record had a part in it, else `None`."""
        return untuned_flag(self.coverage.untuned_percent)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, the derived figures included for people who read the file."""
        data: dict[str, object] = {
            "latency_ms": self.latency_ms,
            "spread": self.spread,
            "noisy": self.noisy,
        }
        for field in fields(self):
            data[field.name] = getattr(self, field.name)
        data["samples_ms"] = list(self.samples_ms)
        data["coverage"] = {f.name: getattr(self.coverage, f.name) for f in fields(self.coverage)}
        for name in ("state_before", "state_after"):
            state: DeviceState | None = getattr(self, name)
            data[name] = None if state is None else state.to_dict()
        for name in _OPTIONAL:
            if data[name] is None:
                del data[name]
        if self.precision == FLOAT32:
            # A file without them is of float32, as all were once; older versions read it then.
            del data["dtype"], data["accumulator"]
        if self.warnings:
            data["warnings"] = list(self.warnings)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Latency:
        """Return the latency that `to_dict` wrote; raises MeasurementError where anything is off."""
        rest = dict(data)
        derived = {name: rest.pop(name, None) for name in ("latency_ms", "spread", "noisy")}
        for name in ("warnings", _WARNINGS_ONCE):
            rest.pop(name, None)  # follow from the rest
        samples = rest.pop("samples_ms", None)
        coverage = rest.pop("coverage", {})
        for name in ("state_before", "state_after"):
            if name in rest:
                rest[name] = DeviceState.from_dict(rest[name])
        if not isinstance(samples, Sequence) or isinstance(samples, str):
            raise MeasurementError(f"samples_ms must be a list of times, not {samples!r}")
        if not isinstance(coverage, Mapping):
            raise MeasurementError(f"coverage must be a table, not {coverage!r}")
        counts = {_RENAMED.get(name, name): value for name, value in coverage.items()}
        try:
            latency = cls(samples_ms=tuple(samples), coverage=Coverage(**counts), **rest)  # type: ignore[arg-type]
        except TypeError as error:
            raise MeasurementError(
                f"a stored latency has other fields than expected: {error}"
            ) from error
        for name in ("latency_ms", "spread"):
            stored, computed = derived[name], getattr(latency, name)
            if stored is not None and not _agrees(stored, computed):
                raise MeasurementError(
                    f"stored {name} must follow from the samples ({computed}), not {stored!r}"
                )
        return latency

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Latency:
        """Return the latency of a line that `to_json` wrote."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise MeasurementError(f"a stored latency must be JSON: {error}") from error
        if not isinstance(data, dict):
            raise MeasurementError(f"a stored latency must be a JSON object, not {data!r}")
        return cls.from_dict(data)


def change_text(change: float) -> str:
    """Return what a change of a device's reference kernel, a part of its level, means for a person."""
    return f"the device's reference kernel takes {abs(change):.1%} {'longer' if change > 0 else 'less'} than before"


def untuned_flag(percent: float | None) -> str | None:
    """Return what has to stand beside a latency of which `percent` is in untuned kernels, `None` if nothing has to."""
    return f"{format_percent(percent)}% of it in untuned kernels" if percent else None


def format_percent(percent: float) -> str:
    """Return `percent` with one decimal, or with as many as it takes not to show a small part as none."""
    return f"{percent:.1f}" if percent == 0 or percent >= 0.1 else f"{percent:.1g}"


def spread_of(samples: Sequence[float]) -> float:
    """Return the interquartile range of `samples` divided by their median; 0 for fewer than two."""
    if len(samples) < 2:
        return 0.0
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return (third - first) / statistics.median(samples)


def _agrees(stored: object, computed: float) -> bool:
    return isinstance(stored, (int, float)) and math.isclose(
        stored, computed, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_utc(text: object) -> None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise MeasurementError(f"measured_at must be an ISO time in UTC, not {text!r}")
