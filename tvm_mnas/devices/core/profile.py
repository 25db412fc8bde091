"""A device profile: a TOML file that says what a device is, how to reach it and how to time on it.

Shipped profiles lie in `rpc/profiles/`; any other is given by its path. The profile `local` is this machine:
its target is detected when it is loaded, and a farm starts its tracker and server by itself. So it does for a
profile that is `emulated`, with the server of the target's architecture in an emulator.
"""

from __future__ import annotations

import json
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import tomli_w

from tvm_mnas.cores.model import STATED, check_stated
from tvm_mnas.cores.precision import Dtype, Precision, precision_of
from tvm_mnas.devices.core.cores import fastest_core
from tvm_mnas.devices.core.host import detect_target
from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.errors import ProfileError
from tvm_mnas.resources import profiles_directory

HOST_TARGET = "host"
"""The word that stands for "detect this machine's target when the profile is loaded"."""

FASTEST_CORE = "fastest"
"""The word that stands for the highest core that this process may use: the first takes the interrupts."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@ -]{0,126}(?<! )")
"""What trackers list under, as far as it can name a directory too."""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSettings:
    """How one thing is timed: `repeat` samples, each the mean of at least `number` runs.

    `number` grows until a sample takes `min_repeat_ms`; `warmup` runs come first and are thrown away; after
    each sample the device rests for `cooldown_s`. A spread (interquartile range / median) beyond `max_spread`
    is measured again, `attempts` times at most.
    """

    repeat: int = 20
    number: int = 1
    min_repeat_ms: int = 10
    warmup: int = 3
    cooldown_s: float = 0.0
    max_spread: float = 0.1
    attempts: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ("repeat", 1),
            ("number", 1),
            ("attempts", 1),
            ("warmup", 0),
            ("min_repeat_ms", 0),
        ):
            value = getattr(self, name)
            if not _is_int(value) or value < least:
                raise ProfileError(f"{name} must be a whole number >= {least}, not {value!r}")
        if not _is_number(self.cooldown_s) or not 0 <= self.cooldown_s <= 60:
            raise ProfileError(f"cooldown_s must lie in 0..60, not {self.cooldown_s!r}")
        if not _is_number(self.max_spread) or not 0 < self.max_spread <= 1:
            raise ProfileError(f"max_spread must be above 0 and at most 1, not {self.max_spread!r}")


KERNEL_TIMING = TimingSettings(repeat=3, number=1, min_repeat_ms=5, warmup=0, attempts=1)
"""While tuning a schedule must be cheap: thousands of them are ranked, none is reported."""

MAX_SLOWDOWN = 1.5
"""Boards of one kind differ by a few percent; one that is beyond this is throttled, busy or another kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What a device is, how to reach it and how to time on it.

    `target` is the JSON text of a TVM target, or "host" until `resolved` has detected it; `threads` is the
    number of threads a network runs with; `core` the one that a single thread is pinned to, if any;
    `tracker` is `None` where we start tracker and server ourselves. A latency after which the device is hotter than
    `max_temperature_c` degrees Celsius is flagged. A device that takes more than `max_slowdown` times as long for the
    reference kernel as the fastest of this profile does not measure.

    Networks are computed in `dtype`, their sums kept in `accumulator`; None is `dtype`, or float32 for bfloat16.
    """

    key: str
    target: str
    description: str = ""
    threads: int = 1
    core: int | None = None
    tracker: TrackerAddress | None = None
    emulated: bool = False
    max_temperature_c: float | None = None
    max_slowdown: float = MAX_SLOWDOWN
    dtype: Dtype = "float32"
    accumulator: Dtype | None = None
    timing: TimingSettings = TimingSettings()
    kernel_timing: TimingSettings = KERNEL_TIMING

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not _KEY.fullmatch(self.key):
            raise ProfileError(
                f"key must be letters, digits, blanks and any of . _ + @ -, a letter or digit first, at most 127, "
                f"not {self.key!r}"
            )
        if not isinstance(self.description, str):
            raise ProfileError(f"description must be a text, not {self.description!r}")
        if not _is_int(self.threads) or self.threads < 1:
            raise ProfileError(f"threads must be a whole number >= 1, not {self.threads!r}")
        if self.core is not None and (not _is_int(self.core) or self.core < 0):
            raise ProfileError(
                f'core must be a core\'s number or "{FASTEST_CORE}", not {self.core!r}'
            )
        if self.core is not None and self.threads > 1:
            raise ProfileError(f"core pins one thread, so threads must be 1, not {self.threads}")
        if self.tracker is not None and not isinstance(self.tracker, TrackerAddress):
            raise ProfileError(f'tracker must be "host:port", not {self.tracker!r}')
        if not isinstance(self.emulated, bool):
            raise ProfileError(f"emulated must be true or false, not {self.emulated!r}")
        heat_c = self.max_temperature_c
        if heat_c is not None and (not _is_number(heat_c) or not 0 < heat_c <= 200):
            raise ProfileError(f"max_temperature_c must be above 0 and at most 200, not {heat_c!r}")
        if not _is_number(self.max_slowdown) or not 1 < self.max_slowdown <= 1000:
            raise ProfileError(
                f"max_slowdown must be above 1 and at most 1000, not {self.max_slowdown!r}"
            )
        precision_of(self.dtype, self.accumulator)
        self._check_target()

    def _check_target(self) -> None:
        if self.target == HOST_TARGET:
            if self.tracker is not None:
                raise ProfileError(
                    f'target must be a table for a device behind a tracker, not "{HOST_TARGET}"'
                )
            return
        try:
            target = json.loads(self.target)
        except (TypeError, json.JSONDecodeError):
            target = None
        if not isinstance(target, dict) or not isinstance(target.get("kind"), str):
            raise ProfileError(
                f'target must be "{HOST_TARGET}" or a table with a kind, not {self.target!r}'
            )
        check_stated(target.get(STATED, {}))
        if target.get("num-cores") != self.threads:
            raise ProfileError(
                f"target.num-cores must equal threads ({self.threads}), not {target.get('num-cores')!r}"
            )

    @property
    def precision(self) -> Precision:
        """In which formats networks are computed."""
        return precision_of(self.dtype, self.accumulator)

    @property
    def is_local(self) -> bool:
        """Whether we start this device's tracker and server ourselves."""
        return self.tracker is None

    @property
    def architecture(self) -> str:
        """What the device's code is for, as in its triple: "aarch64"; this machine's where none is given."""
        attributes = {} if self.target == HOST_TARGET else json.loads(self.target)
        return str(attributes.get("mtriple", platform.machine())).partition("-")[0]

    def resolved(self) -> DeviceProfile:
        """Return the profile with its target detected; imports TVM where there is something to detect."""
        if self.target != HOST_TARGET:
            return self
        return replace(self, target=detect_target(threads=self.threads))

    @classmethod
    def from_toml(cls, path: Path) -> DeviceProfile:
        """Return the profile that `path` holds, its target as written; raises ProfileError in one line."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProfileError(f"{path}: is not TOML: {error}") from error
        try:
            return _from_table(data)
        except ProfileError as error:
            raise ProfileError(f"{path}: {error}") from error

    def to_toml(self) -> str:
        """Return the text of a TOML file that reads back as this very profile."""
        values: dict[str, object] = {
            "key": self.key,
            "description": self.description,
            "threads": self.threads,
            "emulated": self.emulated,
            "core": self.core,
            "tracker": None if self.tracker is None else str(self.tracker),
            "max_temperature_c": self.max_temperature_c,
            "max_slowdown": self.max_slowdown,
            "dtype": self.dtype,
            "accumulator": self.accumulator,
            "target": HOST_TARGET if self.target == HOST_TARGET else json.loads(self.target),
            "timing": asdict(self.timing),
            "kernel_timing": asdict(self.kernel_timing),
        }
        return tomli_w.dumps({name: value for name, value in values.items() if value is not None})


def shipped_profiles() -> dict[str, Path]:
    """Return the shipped profiles' files by key, sorted."""
    return {path.stem: path for path in sorted(profiles_directory().glob("*.toml"))}


def load_profile(key_or_path: str) -> DeviceProfile:
    """Return a shipped profile by key or any profile by path, its target detected where it says "host".

    Raises ProfileError: one line that names file, key, rule and value, or lists the profiles that exist.
    """
    return read_profile(key_or_path).resolved()


def read_profile(key_or_path: str) -> DeviceProfile:
    """Return a profile as written, without detecting a target and so without importing TVM."""
    if key_or_path.endswith(".toml") or "/" in key_or_path:
        return DeviceProfile.from_toml(Path(key_or_path))
    shipped = shipped_profiles()
    if key_or_path not in shipped:
        raise ProfileError(
            f"device profile {key_or_path!r} is unknown; there are: {', '.join(shipped) or 'none'}; "
            "or give the path of a TOML file"
        )
    return DeviceProfile.from_toml(shipped[key_or_path])


def _from_table(data: Mapping[str, object]) -> DeviceProfile:
    _refuse_unknown(data, {f.name for f in fields(DeviceProfile)}, "")
    values = dict(data)
    for name in ("key", "target"):
        if name not in values:
            raise ProfileError(f"{name} is missing")
    threads = values.get("threads", 1)
    values["target"] = _target_text(values["target"], threads)
    if "core" in values:
        values["core"] = _core(values["core"])
    if "tracker" in values:
        values["tracker"] = parse_tracker(values["tracker"])
    for name, default in (("timing", TimingSettings()), ("kernel_timing", KERNEL_TIMING)):
        if name in values:
            values[name] = _timing(values[name], default, name)
    return DeviceProfile(**values)  # type: ignore[arg-type]


def _target_text(value: object, threads: object) -> str:
    if value == HOST_TARGET:
        return HOST_TARGET
    if not isinstance(value, Mapping):
        raise ProfileError(f'target must be "{HOST_TARGET}" or a table with a kind, not {value!r}')
    # MetaSchedule will not tune without num-cores, and some of TVM's own tags lack it.
    return json.dumps({"num-cores": threads} | dict(value), sort_keys=True)


def _core(value: object) -> int:
    if value == FASTEST_CORE:
        return fastest_core()
    if not _is_int(value):
        raise ProfileError(f'core must be a core\'s number or "{FASTEST_CORE}", not {value!r}')
    assert isinstance(value, int)
    return value


def parse_tracker(value: object) -> TrackerAddress:
    """Return the address that "host:port" names; raises ProfileError."""
    host, colon, port = str(value).rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not isinstance(value, str) or not colon or not bare or not _is_port(port):
        raise ProfileError(f'tracker must be "host:port", not {value!r}')
    if (":" in bare) != (host == f"[{bare}]") or any(char in bare for char in "[]/@ "):
        raise ProfileError(
            f'tracker must be "host:port", an IPv6 address in brackets, as "[::1]:9190", not {value!r}'
        )
    if not 0 < int(port) < 65536:
        raise ProfileError(f"tracker's port must lie in 1..65535, not {port}")
    return TrackerAddress(bare, int(port))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _timing(value: object, default: TimingSettings, name: str) -> TimingSettings:
    if not isinstance(value, Mapping):
        raise ProfileError(f"{name} must be a table, not {value!r}")
    _refuse_unknown(value, {f.name for f in fields(TimingSettings)}, f"{name}.")
    try:
        return replace(default, **value)
    except ProfileError as error:
        raise ProfileError(f"{name}.{error}") from error


def _refuse_unknown(data: Mapping[str, object], known: set[str], prefix: str) -> None:
    for name in data:
        if name not in known:
            raise ProfileError(
                f"{prefix}{name} is not a key; there are: {', '.join(sorted(known))}"
            )
