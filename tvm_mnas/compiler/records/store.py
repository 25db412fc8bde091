"""Tuning records on disk: what was measured once is never measured again.

A store is a directory for one target and one version of TVM:

    database_workload.json        one kernel a line, in MetaSchedule's own form
    database_tuning_record.json   one measured schedule a line, likewise: `[kernel's line, [trace, seconds, ...]]`
    history.jsonl                 one line per tuning of a kernel: the budget, what was measured, what failed
    manifest.json                 the target and the versions

MetaSchedule's `JSONDatabase` opens the first two. Lines are appended under a lock, so that several processes can
share a store; a last line torn by a crash or a full disk is dropped with a warning. Whoever takes lines out puts
a new file in the place of the old one, which all others notice. MetaSchedule's own query ignores the target, hence
one store for each.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.formats import (
    HISTORY,
    MANIFEST,
    RECORDS,
    WORKLOADS,
    HistoryEvent,
    ScheduleParser,
    StoreManifest,
    compact_workload,
    parse_event,
    parse_schedule,
    parse_workload,
)
from tvm_mnas.compiler.records.json_lines import (
    LineReader,
    Place,
    append_lines,
    hold_lock,
    replace_lines,
)
from tvm_mnas.errors import RecordsError

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """What is known of one kernel; `name` and `flops` are None where no tuning noted them.

    `schedules` are those that are kept, `valid` those of them that ran, `budget` and `failures` (by reason) come
    from the history.
    """

    key: str
    name: str | None
    flops: int | None
    schedules: int
    valid: int
    budget: int
    best_us: float | None
    failures: Mapping[str, int]


@dataclass(slots=True)
class _Entry:
    """What is known of one kernel: its line and place, the means (s) and places of its schedules, its tunings."""

    line: int
    place: Place
    schedules: list[tuple[float, Place]] = field(default_factory=list)
    best: tuple[float, Place] | None = None
    events: list[Place] = field(default_factory=list)
    budget: int = 0
    measured: int = 0
    name: str | None = None
    flops: int | None = None
    failures: Counter[str] = field(default_factory=Counter)


class RecordStore(TuningRecords):
    """The records of one target in one directory. Open with `RecordStore.open` or `RecordStore.read`."""

    def __init__(self, directory: Path, manifest: StoreManifest, *, writable: bool) -> None:
        self.directory = directory
        self.manifest = manifest
        self.writable = writable
        self._entries: dict[str, _Entry] = {}
        self._lines: list[str] = []
        self._workloads = LineReader(directory / WORKLOADS)
        self._records = LineReader(directory / RECORDS)
        self._history = LineReader(directory / HISTORY)
        self._parse_schedule = ScheduleParser()

    @classmethod
    def open(cls, directory: Path, *, target: str) -> RecordStore:
        """Return the store in `directory`, made if absent, for the TVM target `target` (its JSON text).

        Raises:
            RecordsError: if it belongs to another target or TVM, is damaged, or cannot be written.
        """
        return cls.open_for(directory, StoreManifest.of_this(target))

    @classmethod
    def open_for(cls, directory: Path, manifest: StoreManifest) -> RecordStore:
        """Return the store in `directory`, made if absent, for what `manifest` says.

        Raises:
            RecordsError: if it is for something else, is damaged, or cannot be written.
        """
        store = cls(directory, manifest, writable=True)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with hold_lock(directory, alone=store.writable):
                if (directory / MANIFEST).exists() or (directory / WORKLOADS).exists():
                    store._check_manifest()
                else:
                    manifest.write(directory)
                store.refresh()
        except OSError as error:
            raise RecordsError(
                f"cannot open the tuning records in {directory}: {error.strerror}; "
                f"name another directory with --records"
            ) from error
        return store

    @classmethod
    def read(cls, directory: Path, *, target: str | None = None) -> RecordStore:
        """Return the store that lies in `directory`, to be read only: nothing there is changed.

        `target` is the one that is needed, with the TVM that is installed; without it, any does.

        Raises:
            RecordsError: if there is no store, it is for another target or TVM, is damaged or cannot be read.
        """
        manifest = (
            StoreManifest.read(directory) if target is None else StoreManifest.of_this(target)
        )
        store = cls(directory, manifest, writable=False)
        try:
            with hold_lock(directory, alone=store.writable):
                store._check_manifest()
                store.refresh()
        except OSError as error:
            raise RecordsError(
                f"cannot read the tuning records in {directory}: {error.strerror}; "
                f"see `ls -l {directory}`"
            ) from error
        return store

    @property
    def target(self) -> str:
        """The JSON text of the TVM target that the records are for."""
        return self.manifest.target

    def keys(self) -> frozenset[str]:
        """Return the keys of the kernels that are known."""
        return frozenset(self._entries)

    def budget(self, key: str) -> int:
        """Return the largest number of schedules that the kernel was tuned to, 0 if it was not."""
        return self._entries[key].budget if key in self._entries else 0

    def schedules(self, key: str) -> int:
        """Return how many schedules were measured for the kernel, failed and pruned ones included."""
        if key not in self._entries:
            return 0
        # The history lacks what was measured last by a process that was killed, the records what was pruned.
        return max(len(self._entries[key].schedules), self._entries[key].measured)

    def best_us(self, key: str) -> float | None:
        """Return the best run time of the kernel in microseconds, None if it has none."""
        entry = self._entries.get(key)
        return None if entry is None or entry.best is None else entry.best[0] * 1e6

    def best_record(self, key: str) -> str | None:
        """Return the record of the kernel's best schedule as MetaSchedule's JSON, None if none ran.

        Raises:
            RecordsError: if its line is damaged.
        """
        entry = self._entries.get(key)
        return None if entry is None or entry.best is None else self._record_at(entry.best[1])

    def records_of(self, key: str) -> list[str]:
        """Return every record of the kernel as MetaSchedule's JSON, failed ones included.

        Raises:
            RecordsError: if the line of one is damaged.
        """
        entry = self._entries.get(key)
        return [] if entry is None else [self._record_at(place) for _, place in entry.schedules]

    def summaries(self) -> list[KernelSummary]:
        """Return what is known of each kernel, in the order in which they were added."""
        return [
            KernelSummary(
                key=key,
                name=entry.name,
                flops=entry.flops,
                schedules=len(entry.schedules),
                valid=sum(mean < math.inf for mean, _ in entry.schedules),
                budget=entry.budget,
                best_us=self.best_us(key),
                failures=dict(entry.failures),
            )
            for key, entry in self._entries.items()
        ]

    def add(
        self,
        kernel: Kernel,
        records: Sequence[str],
        *,
        budget: int,
        failures: Mapping[str, int],
        duration_s: float,
    ) -> None:
        """Add the `records` (MetaSchedule's JSON) that tuning `kernel` to `budget` schedules gave.

        Raises:
            RecordsError: if the disk does not take them; what was there before stays.
        """
        event = HistoryEvent(
            kernel.key, kernel.name, budget, len(records), failures, duration_s, kernel.flops
        )
        with self.changing("tvm-mnas search --resume RUN"):
            self.append(kernel.key, kernel.workload, records, [event])

    def subset(self, kernels: Sequence[Kernel], directory: Path) -> None:
        """Write a store in `directory` with the best records of `kernels` alone: what an artifact is made of.

        Raises:
            RecordsError: if it cannot be written.
        """
        write_best(self, kernels, directory)

    @contextlib.contextmanager
    def changing(self, command: str) -> Iterator[None]:
        """Hold the lock, with everything taken in that other processes did, for changes to the store.

        `command` is what the user types again after making room on a full disk.

        Raises:
            RecordsError: if the store is only to be read, or the disk does not take the change.
        """
        if not self.writable:
            raise RecordsError(
                f"{self.directory}: these records were opened to be read only; "
                f"name another directory with --records"
            )
        try:
            with hold_lock(self.directory, alone=True):
                self.refresh()
                if not (self.directory / MANIFEST).exists():
                    # Somebody emptied the directory; what comes now is for this target still.
                    self.manifest.write(self.directory)
                yield
                self.refresh()
        except OSError as error:
            raise RecordsError(
                f"cannot write the tuning records in {self.directory}: {error.strerror}; "
                f"make room, then `{command}`"
            ) from error

    def append(
        self, key: str, workload: str, records: Sequence[str], events: Sequence[HistoryEvent]
    ) -> None:
        """Append a kernel, should it be new, and records and events of it. The lock must be held (`changing`).

        Raises:
            OSError: if the disk does not take them.
        """
        if key not in self._entries:
            # On the disk before any record that names its line, whatever happens to the power.
            line_of_code = f"{compact_workload(workload)}\n".encode()
            append_lines(self._workloads.path, [line_of_code], durable=True)
            self.refresh()
        line = self._entries[key].line
        append_lines(self._records.path, [f"[{line}, {record}]\n".encode() for record in records])
        append_lines(self._history.path, [event.to_line() for event in events])

    def refresh(self) -> None:
        """Take in what this or another process changed. The lock must be held.

        Raises:
            RecordsError: if a line is damaged, or a record names a kernel that is not there.
        """
        readers = (self._workloads, self._records, self._history)
        if any(reader.replaced() for reader in readers):
            for reader in readers:
                reader.restart()
            self._entries.clear()
            self._lines.clear()
        for key, place in self._workloads.fresh(parse_workload, cut=self.writable):
            self._entries.setdefault(key, _Entry(len(self._lines), place))
            self._lines.append(key)
        for (line, mean), place in self._records.fresh(self._parse_schedule, cut=self.writable):
            if not 0 <= line < len(self._lines):
                raise RecordsError(
                    f"{self._records.path}: a record names the line of its kernel, from 0, and line "
                    f"{self._records.line} names {line} of {len(self._lines)}; drop it with "
                    f"`tvm-mnas records check --repair {self.directory}`"
                )
            entry = self._entries[self._lines[line]]
            entry.schedules.append((mean, place))
            if mean < (math.inf if entry.best is None else entry.best[0]):
                entry.best = (mean, place)
        for event, place in self._history.fresh(parse_event, cut=self.writable):
            if event.key in self._entries:
                entry = self._entries[event.key]
                entry.events.append(place)
                entry.budget = max(entry.budget, event.budget)
                entry.measured += event.measured
                entry.failures.update(event.failures)
                entry.name = event.name
                entry.flops = event.flops if event.flops is not None else entry.flops

    def contents_of(self, key: str) -> tuple[str, list[HistoryEvent]]:
        """Return the kernel's line of the file of kernels, without its end, and its events, the oldest first."""
        entry = self._entries[key]
        workload = self._workloads.read(entry.place).decode().removesuffix("\n")
        return workload, [parse_event(self._history.read(place)) for place in entry.events]

    def keep_best(self, count: int) -> tuple[int, int]:
        """Drop all but the best `count` schedules of each kernel, and those that failed. The lock must be held.

        Return how many were kept and dropped. The file of records is replaced as a whole or not at all; who has
        read it before notices.

        Raises:
            OSError: if the disk does not take it.
        """
        kept: list[Place] = []
        schedules = 0
        for entry in self._entries.values():
            ran = sorted(schedule for schedule in entry.schedules if schedule[0] < math.inf)
            kept.extend(place for _, place in ran[:count])
            schedules += len(entry.schedules)
        if len(kept) < schedules:
            kept.sort()
            replace_lines(self._records.path, (self._records.read(place) for place in kept))
        return len(kept), schedules - len(kept)

    def _record_at(self, place: Place) -> str:
        try:
            return json.dumps(parse_schedule(self._records.read(place))[2])
        except ValueError as error:
            raise RecordsError(
                f"{self._records.path}: each line is one record, and that at byte {place[0]} is not "
                f"({error}); drop it with `tvm-mnas records check --repair {self.directory}`"
            ) from error

    def _check_manifest(self) -> None:
        difference = self.manifest.difference(StoreManifest.read(self.directory))
        if difference is not None:
            raise RecordsError(
                f"{self.directory}: these records are {difference}; name another directory with --records"
            )


def write_best(records: TuningRecords, kernels: Sequence[Kernel], directory: Path) -> None:
    """Write a store in `directory` with the best of `records` for each of `kernels`.

    Raises:
        RecordsError: if it cannot be written.
    """
    store = RecordStore.open(directory, target=records.target)
    for kernel in kernels:
        best = records.best_record(kernel.key)
        store.add(
            kernel,
            [] if best is None else [best],
            budget=records.budget(kernel.key),
            failures={},
            duration_s=0.0,
        )
