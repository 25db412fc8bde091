"""Tuning records in layers: those of the user, which grow, above those that ship, which are only read.

The best record of a kernel wins, whichever layer has it; what is measured goes to the top.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.store import RecordStore, write_best
from tvm_mnas.errors import RecordsError, TvmMnasError
from tvm_mnas.resources import resource_directory

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel

_LOGGER = logging.getLogger(__name__)

SHIPPED = "shipped"
"""The directory in `tuning_logs/` whose records ship."""


class LayeredRecords(TuningRecords):
    """The records of `top`, to which all is added, and of the stores `below` it, for the same target."""

    def __init__(self, top: RecordStore, below: Sequence[RecordStore]) -> None:
        for store in below:
            if store.target != top.target:
                raise ValueError(
                    f"layers must be for one target, not {top.target} and {store.target}"
                )
        self._top = top
        self._layers = (top, *below)
        self._distinct: dict[str, tuple[tuple[int, ...], int]] = {}

    @property
    def target(self) -> str:
        """The JSON text of the TVM target that the records are for."""
        return self._top.target

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the layers lie, the one that is written to first."""
        return tuple(layer.directory for layer in self._layers)

    def keys(self) -> frozenset[str]:
        """Return the keys of the kernels that any layer knows."""
        return frozenset().union(*(layer.keys() for layer in self._layers))

    def budget(self, key: str) -> int:
        """Return the largest number of schedules that the kernel was tuned to in one layer, 0 if in none."""
        return max(layer.budget(key) for layer in self._layers)

    def schedules(self, key: str) -> int:
        """Return how many schedules were measured for the kernel; one that two layers hold counts once."""
        counts = tuple(layer.schedules(key) for layer in self._layers)
        if sum(count > 0 for count in counts) < 2:
            return sum(counts)
        # ReferenceTiming the records takes a while and is asked for each time a network is compiled.
        if self._distinct.get(key, ((), 0))[0] != counts:
            copies = sum(len(layer.records_of(key)) for layer in self._layers)
            copies -= len(self.records_of(key))
            self._distinct[key] = (counts, sum(counts) - copies)
        return self._distinct[key][1]

    def best_us(self, key: str) -> float | None:
        """Return the best run time of the kernel in microseconds, None if it has none."""
        times = [time for layer in self._layers if (time := layer.best_us(key)) is not None]
        return min(times, default=None)

    def best_record(self, key: str) -> str | None:
        """Return the record of the kernel's best schedule as MetaSchedule's JSON, None if none ran.

        Raises:
            RecordsError: if its line is damaged.
        """
        best_us = self.best_us(key)
        for layer in self._layers:
            if best_us is not None and layer.best_us(key) == best_us:
                return layer.best_record(key)
        return None

    def records_of(self, key: str) -> list[str]:
        """Return every record of the kernel, those of the lowest layer first; one that two layers hold once.

        Raises:
            RecordsError: if the line of one is damaged.
        """
        below_first = reversed(self._layers)
        return list(
            dict.fromkeys(record for layer in below_first for record in layer.records_of(key))
        )

    def add(
        self,
        kernel: Kernel,
        records: Sequence[str],
        *,
        budget: int,
        failures: Mapping[str, int],
        duration_s: float,
    ) -> None:
        """Add the `records` (MetaSchedule's JSON) that tuning `kernel` to `budget` schedules gave to the top layer.

        Raises:
            RecordsError: if the disk does not take them; what was there before stays.
        """
        self._top.add(kernel, records, budget=budget, failures=failures, duration_s=duration_s)

    def subset(self, kernels: Sequence[Kernel], directory: Path) -> None:
        """Write a store in `directory` with the best records of `kernels` alone: what an artifact is made of.

        Raises:
            RecordsError: if it cannot be written.
        """
        write_best(self, kernels, directory)


def store_name(profile_key: str, target: str) -> str:
    """Return the name of the store of a device profile, `KEY-DIGEST`; `target` is its TVM target's JSON text."""
    return f"{profile_key}-{target_digest(target)}"


def target_digest(target: str) -> str:
    """Return the eight hexadecimal digits that stand for a target in the name of its store."""
    return hashlib.sha256(target.encode()).hexdigest()[:8]


def shipped_directory() -> Path | None:
    """Return the directory of the stores that ship, None if this installation has none."""
    try:
        directory = resource_directory("tuning_logs") / SHIPPED
    except TvmMnasError:
        return None
    return directory if directory.is_dir() else None


def open_records(
    directory: Path, *, profile_key: str, target: str, shipped: Path | None
) -> TuningRecords:
    """Return the records of a device profile: its store below `directory`, made if absent, above the one that ships.

    `target` is the profile's, as JSON text, `shipped` the directory of the stores that ship. Of those, one for
    another target or TVM, or that cannot be read, is left out with a warning: a search can do without it.

    Raises:
        RecordsError: if the store below `directory` is for another target or TVM, damaged, or cannot be written.
    """
    name = store_name(profile_key, target)
    top = RecordStore.open(directory / name, target=target)
    if shipped is None or not (shipped / name).is_dir():
        return top
    if (shipped / name).samefile(top.directory):
        return top
    try:
        return LayeredRecords(top, [RecordStore.read(shipped / name, target=target)])
    except RecordsError as error:
        _LOGGER.warning("the records that ship are left out: %s", error)
        return top
