"""The model of a core by which schedules are chosen: its vector registers, its units and its first cache.

What a target's name and features do not say is that of the desktop and server cores of the last ten years. A profile
may state any of it, in the table `[target.core_model]`. The model only orders the schedules; the device measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tvm_mnas.errors import ProfileError

STATED = "core_model"
"""The key of a target's table under which a profile states its core; TVM is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreModel:
    """What of a core decides how fast a register tile is.

    It has so many vector `registers` of `lanes` each, of float32 unless another type was asked for. `datapath` is how
    many lanes an instruction works on at once, all of them unless stated: where it is half of them a whole register
    takes twice as long as half of one, and only saves an instruction.

    `multiplies_lanes` says whether a multiply-add takes one lane of a register for all of another, as on ARM, where a
    value for all lanes costs a load of its own otherwise. Elsewhere it comes from memory within the multiply-add, or by
    a load that broadcasts.

    A core starts `multiply_adds_per_cycle` and `loads_per_cycle` of a datapath's width in a cycle, and a multiply-add
    waits `latency_cycles` from the start of the one whose result it takes. Weights that do not fit in
    `first_cache_bytes` come from the second cache, a vector in `second_cache_cycles`. An image that does not fit in
    `second_cache_bytes` is not written between two convolutions that can be one kernel.

    Raises:
        ProfileError: if a number is not above 0, or the datapath is wider than a register.
    """

    lanes: int
    registers: int
    multiplies_lanes: bool = False
    datapath: int | None = None
    multiply_adds_per_cycle: int = 2
    loads_per_cycle: int = 2
    latency_cycles: int = 4
    first_cache_bytes: int = 32 * 1024
    second_cache_cycles: int = 2
    second_cache_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        if not isinstance(self.multiplies_lanes, bool):
            raise ProfileError(
                f"target.{STATED}.multiplies_lanes must be true or false, not {self.multiplies_lanes!r}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "multiplies_lanes" or (field.name == "datapath" and value is None):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ProfileError(
                    f"target.{STATED}.{field.name} must be a whole number >= 1, not {value!r}"
                )
        if self.width > self.lanes:
            raise ProfileError(
                f"target.{STATED}.datapath must be at most the lanes of a register ({self.lanes}), not {self.datapath}"
            )

    @property
    def width(self) -> int:
        """How many lanes an instruction works on at once."""
        return self.lanes if self.datapath is None else self.datapath

    @property
    def sums_in_flight(self) -> int:
        """How many sums of a datapath's width keep the units busy, each addition waiting for the one before."""
        return self.multiply_adds_per_cycle * self.latency_cycles

    def doubled(self) -> CoreModel:
        """Return the core with twice the lanes: of numbers half as large."""
        datapath = None if self.datapath is None else 2 * self.datapath
        return replace(self, lanes=2 * self.lanes, datapath=datapath)

    def stated(self, values: Mapping[str, Any]) -> CoreModel:
        """Return the core with what a profile states of it; a register's lanes are its datapath unless that says else.

        Raises:
            ProfileError: if there is no such key, or a value is out of its range.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ProfileError(
                    f"target.{STATED}.{name} is not a key; there are: {', '.join(sorted(known))}"
                )
        changes = {**({"datapath": None} if "lanes" in values else {}), **values}
        return replace(self, **changes)


def check_stated(values: object) -> None:
    """Refuse what no core could state, before anything is known of the target. Raises ProfileError."""
    if not isinstance(values, Mapping):
        raise ProfileError(f"target.{STATED} must be a table, not {values!r}")
    lanes = values.get("lanes", values.get("datapath", 4))
    CoreModel(lanes=lanes, registers=32).stated(values)
