"""Tuning records on disk: what was measured once is never measured again.

A store is a directory for one target and one version of TVM:

    database_workload.json        one kernel a line, in MetaSchedule's own form
    database_tuning_record.json   one measured schedule a line, likewise: `[kernel's line, [trace, seconds, ...]]`
    history.jsonl                 one line per tuning of a kernel: the budget, what was measured, what failed
    manifest.json                 the target and the versions

MetaSchedule's `JSONDatabase` opens the first two. Lines are only ever appended, under a lock, so that several
processes can share a store; a last line torn by a crash or a full disk is dropped with a warning. MetaSchedule's
own query ignores the target, hence one store for each.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import RecordsError

if TYPE_CHECKING:
    from tvm_mnas.compiler.lowering import Kernel

_LOGGER = logging.getLogger(__name__)

FORMAT = 1
FAILED_S = 1e10
"""The run time that MetaSchedule gives to a schedule that failed."""

_WORKLOADS = "database_workload.json"
_RECORDS = "database_tuning_record.json"
_HISTORY = "history.jsonl"
_MANIFEST = "manifest.json"


@dataclass(slots=True)
class _Entry:
    """What is known of one kernel."""

    workload: str
    line: int
    trials: int = 0
    budget: int = 0
    best_s: float = math.inf
    best: str | None = None
    places: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    """Reads a growing file of lines, each once; a torn last line is cut off."""

    path: Path
    offset: int = 0
    line: int = 0

    def fresh(self) -> Iterator[tuple[Any, tuple[int, int]]]:
        """Yield what the lines appended since the last call hold, each with its place (offset, size).

        The store's lock must be held.
        """
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            file.seek(self.offset)
            for text in file:
                self.line += 1
                try:
                    if not text.endswith(b"\n"):
                        raise ValueError("it has no end")
                    value = json.loads(text)
                except ValueError as error:
                    if file.read(1):
                        raise RecordsError(
                            f"{self.path}: each line is one JSON value, and line {self.line} is not "
                            f"({error}); delete the line, or the directory to tune anew"
                        ) from error
                    _LOGGER.warning(
                        "%s: the last line was torn and is dropped: one record lost", self.path
                    )
                    file.truncate(self.offset)
                    self.line -= 1
                    return
                place = (self.offset, len(text))
                self.offset += len(text)
                yield value, place


@dataclass
class RecordStore:
    """The records of one target in one directory. Open with `RecordStore.open`."""

    directory: Path
    target: str
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._workloads = _Reader(self.directory / _WORKLOADS)
        self._records = _Reader(self.directory / _RECORDS)
        self._history = _Reader(self.directory / _HISTORY)

    @classmethod
    def open(cls, directory: Path, *, target: str) -> RecordStore:
        """Return the store in `directory`, made if absent, for the TVM target `target` (its JSON text).

        Raises:
            RecordsError: if it belongs to another target or TVM, is damaged, or cannot be written.
        """
        store = cls(directory, target)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with store._locked():
                store._check_manifest()
                store._refresh()
        except OSError as error:
            raise RecordsError(
                f"{directory}: tuning records can be read and written, not {error.strerror}; "
                f"name another directory with --records"
            ) from error
        return store

    def __len__(self) -> int:
        """The number of kernels with a valid record."""
        return sum(entry.best is not None for entry in self._entries.values())

    def has(self, key: str) -> bool:
        """Whether the kernel with this key has a schedule that ran."""
        entry = self._entries.get(key)
        return entry is not None and entry.best is not None

    def trials(self, key: str) -> int:
        """How many schedules were measured for the kernel, failed ones included."""
        return self._entries[key].trials if key in self._entries else 0

    def best_us(self, key: str) -> float | None:
        """The best run time of the kernel in microseconds, None if it has none."""
        return self._entries[key].best_s * 1e6 if self.has(key) else None

    def missing(self, kernels: Iterable[Kernel], *, trials_per_kernel: int = 1) -> list[Kernel]:
        """Return the kernels on which less than this budget was spent, in their order.

        A kernel with fewer schedules than its budget counts as done: there were no more. One that was tuned and
        never ran is not tried again with the same budget.
        """
        return [
            kernel
            for kernel in kernels
            if kernel.key not in self._entries
            or self._entries[kernel.key].budget < trials_per_kernel
        ]

    def records_of(self, key: str) -> list[str]:
        """Return every record of the kernel as MetaSchedule's JSON, failed ones included."""
        entry = self._entries.get(key)
        # A writer killed after the kernel's line leaves a kernel without records, or even without their file.
        if entry is None or not entry.places:
            return []
        found: list[str] = []
        with (self.directory / _RECORDS).open("rb") as file:
            for offset, size in entry.places:
                file.seek(offset)
                found.append(json.dumps(json.loads(file.read(size))[1]))
        return found

    def add(
        self,
        kernel: Kernel,
        records: Sequence[str],
        *,
        budget: int,
        failures: Mapping[str, int],
        duration_s: float,
    ) -> None:
        """Append the `records` (MetaSchedule's JSON) that tuning `kernel` to `budget` trials gave.

        Raises:
            RecordsError: if the disk does not take them; what was there before stays.
        """
        try:
            with self._locked():
                self._refresh()
                if kernel.key not in self._entries:
                    self._append(_WORKLOADS, [kernel.workload])
                    self._refresh()
                line = self._entries[kernel.key].line
                self._append(_RECORDS, [f"[{line}, {record}]" for record in records])
                history = {
                    "key": kernel.key,
                    "name": kernel.name,
                    "budget": budget,
                    "measured": len(records),
                    "failures": dict(failures),
                    "duration_s": round(duration_s, 3),
                }
                self._append(_HISTORY, [json.dumps(history)])
                self._refresh()
        except OSError as error:
            raise RecordsError(
                f"{self.directory}: tuning records can be written, not {error.strerror}; "
                f"make room, then `tvm-mnas search --resume RUN`"
            ) from error

    def database(self, kernels: Iterable[Kernel]) -> Any:
        """Return a MetaSchedule database with the best record of each of `kernels` that has one."""
        from tvm_mnas.compiler.metaschedule import EQUALITY, load_meta_schedule

        database = load_meta_schedule().database
        memory = database.MemoryDatabase(module_equality=EQUALITY)
        for kernel in kernels:
            entry = self._entries.get(kernel.key)
            if entry is None or entry.best is None:
                continue
            loaded = database.Workload.from_json(json.loads(kernel.workload))
            workload = memory.commit_workload(loaded.mod)
            memory.commit_tuning_record(
                database.TuningRecord.from_json(json.loads(entry.best), workload)
            )
        return memory

    def subset(self, kernels: Sequence[Kernel], directory: Path) -> None:
        """Write a store in `directory` with the best records of `kernels` alone: what an artifact is made of."""
        other = RecordStore.open(directory, target=self.target)
        for kernel in kernels:
            entry = self._entries[kernel.key]
            records = [] if entry.best is None else [entry.best]
            other.add(kernel, records, budget=entry.budget, failures={}, duration_s=0.0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _check_manifest(self) -> None:
        path = self.directory / _MANIFEST
        mine = {"format": FORMAT, "target": self.target, "tvm": version("apache-tvm")}
        if not path.exists():
            part = path.with_name(path.name + ".part")
            part.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordsError(f"{path}: a manifest is JSON ({error}); delete the file") from error
        for name, value in mine.items():
            found = theirs.get(name) if isinstance(theirs, dict) else None
            if found != value:
                raise RecordsError(
                    f"{self.directory}: these records are for {name} {found!r}, not {value!r}; "
                    f"name another directory with --records"
                )

    def _append(self, name: str, lines: Sequence[str]) -> None:
        if not lines:
            return
        data = "".join(f"{line}\n" for line in lines).encode()
        with (self.directory / name).open("ab") as file:
            file.write(data)

    def _refresh(self) -> None:
        """Take in what this or another process appended. The lock must be held."""
        from tvm_mnas.compiler.metaschedule import key_of

        for value, _ in self._workloads.fresh():
            key = key_of(value[0])
            self._entries.setdefault(key, _Entry(json.dumps(value), len(self._lines)))
            self._lines.append(key)
        for (line, record), place in self._records.fresh():
            if not 0 <= line < len(self._lines):
                raise RecordsError(
                    f"{self.directory}: a record names the line of its kernel, and there is no line "
                    f"{line}; delete the directory to tune anew"
                )
            entry = self._entries[self._lines[line]]
            entry.trials += 1
            entry.places.append(place)
            mean_s = _mean_s(record)
            if mean_s < entry.best_s:
                entry.best_s, entry.best = mean_s, json.dumps(record)
        for event, _ in self._history.fresh():
            if event["key"] in self._entries:
                entry = self._entries[event["key"]]
                entry.budget = max(entry.budget, int(event["budget"]))


def _mean_s(record: Sequence[Any]) -> float:
    """Return the mean run time of a record, infinite for one that failed."""
    runs = record[1]
    if not runs:
        return math.inf
    mean = math.fsum(float(run) for run in runs) / len(runs)
    return mean if mean < FAILED_S else math.inf
