"""Tuning records on disk: what was measured for which kernel on one kind of device.

    manifest.json                 target and TVM version that the records hold for
    database_workload.json        one kernel a line, in MetaSchedule's format
    database_tuning_record.json   one measured schedule a line, in MetaSchedule's format
    effort.jsonl                  one line per round of tuning: schedules tried, and whether there are more

The two database files can be opened by MetaSchedule's own JSONDatabase. They are written here, though: each
round is appended by one write under a lock, so that processes can share a directory and a kill loses no more
than the round under way. What was tried but failed is no record; `effort.jsonl` counts it, so that a kernel
with few schedules, or many failures, is not tuned again for ever.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tvm_mnas.errors import RecordsError

if TYPE_CHECKING:
    from tvm_mnas.compiler.lowering import Kernel

FORMAT = 1
WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"
EFFORT = "effort.jsonl"
MANIFEST = "manifest.json"

_LOCK = ".lock"
_LOCK_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)

# A record as we write it: [workload, [trace, run_secs, target, args]]. The trace is 5-10 kB that need not be
# parsed to know the run times.
_RUN_TIMES = re.compile(rb", \[([0-9eE.+\-, ]+)\], \{[^{}]*\"kind\"")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured schedule of a kernel: its trace as MetaSchedule's JSON value, and run times in seconds."""

    trace: Any
    run_times_s: tuple[float, ...]
    arguments: Any

    def __post_init__(self) -> None:
        if not self.run_times_s or not all(0.0 < time < 1e9 for time in self.run_times_s):
            raise ValueError(f"run times are above 0 s, not {self.run_times_s}")


@dataclass(slots=True)
class _Entry:
    """What is known of one kernel: where its workload and records lie, and how much was tried."""

    workload: int | None = None
    records: list[tuple[float, int]] = field(default_factory=list)  # (mean seconds, offset)
    tried: int = 0
    exhausted: bool = False


class RecordStore:
    """The records of one directory. Made by `open`; any number of processes may share the directory."""

    def __init__(self, directory: Path, target: str) -> None:
        """Use `open`."""
        self.directory = directory
        self.target = target
        self._entries: dict[str, _Entry] = {}
        self._keys: list[str] = []
        self._offsets = {WORKLOADS: 0, RECORDS: 0, EFFORT: 0}

    @classmethod
    def open(cls, directory: Path, *, target: str) -> RecordStore:
        """Return the store in `directory`, made if it is not there, for a TVM target's JSON text.

        Raises:
            RecordsError: if the records there are unreadable or of another target or TVM version.
        """
        from tvm_mnas.compiler.tvm_target import canonical_target

        store = cls(Path(directory), canonical_target(target))
        try:
            store.directory.mkdir(parents=True, exist_ok=True)
            with store._locked():
                store._check_manifest()
                store._repair()
                store._refresh()
        except OSError as error:
            raise RecordsError(f"tuning records need a directory to write, {error}") from error
        return store

    def has(self, kernel: Kernel) -> bool:
        """Return whether a schedule of `kernel` was ever measured."""
        return bool(self._entry(kernel).records)

    def trials(self, kernel: Kernel) -> int:
        """Return how many schedules of `kernel` were measured."""
        return len(self._entry(kernel).records)

    def tried(self, kernel: Kernel) -> int:
        """Return how many schedules of `kernel` were tried, those that failed included."""
        entry = self._entry(kernel)
        return max(entry.tried, len(entry.records))

    def best_us(self, kernel: Kernel) -> float | None:
        """Return the time of the best schedule of `kernel` in microseconds, `None` if there is none."""
        records = self._entry(kernel).records
        return min(records)[0] * 1e6 if records else None

    def remaining(self, kernel: Kernel, trials: int) -> int:
        """Return how many more schedules to try so that `trials` were tried, 0 if there are no more."""
        entry = self._entry(kernel)
        if not entry.records:
            return trials
        return 0 if entry.exhausted else max(0, trials - self.tried(kernel))

    def missing(self, kernels: Iterable[Kernel], *, trials: int = 1) -> list[Kernel]:
        """Return those of `kernels` that have no record, or of which fewer than `trials` were tried."""
        return [kernel for kernel in kernels if self.remaining(kernel, trials)]

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        with self._locked():
            self._refresh()

    def add(
        self,
        kernel: Kernel,
        measurements: Sequence[Measurement],
        *,
        tried: int,
        exhausted: bool = False,
    ) -> None:
        """Append one round of tuning: `tried` schedules, of which `measurements` succeeded.

        `exhausted` says that the kernel has no further schedules. On disk when this returns.
        """
        if tried < len(measurements):
            raise ValueError(f"{len(measurements)} measured schedules of {tried} tried ones")
        with self._locked():
            self._refresh()
            entry = self._entries.setdefault(kernel.key, _Entry())
            if measurements and entry.workload is None:
                self._append(WORKLOADS, [json.dumps(_workload_json(kernel))])
                self._refresh()
            if measurements:
                self._append(
                    RECORDS,
                    [_record_line(entry.workload, item, self.target) for item in measurements],
                )
            effort = {"kernel": kernel.key, "tried": tried, "exhausted": exhausted}
            self._append(EFFORT, [json.dumps({**effort, "name": kernel.name})])
            self._refresh()

    def read(self, kernel: Kernel, *, top: int | None = None) -> list[Measurement]:
        """Return the records of `kernel`, best first, the `top` best of them if given."""
        records = sorted(self._entry(kernel).records)[:top]
        return [_parse_record(self._line(RECORDS, offset)) for _, offset in records]

    def subset(self, kernels: Iterable[Kernel], directory: Path) -> RecordStore:
        """Write the best record of each of `kernels` to the new store `directory` and return it.

        Raises:
            RecordsError: if `directory` holds records already.
        """
        if (directory / RECORDS).exists():
            raise RecordsError(f"a subset needs a new directory, {directory} holds records already")
        copy = RecordStore.open(directory, target=self.target)
        for kernel in kernels:
            if self.has(kernel):
                copy.add(kernel, self.read(kernel, top=1), tried=self.tried(kernel))
        return copy

    def __len__(self) -> int:
        """Return how many schedules were measured, of all kernels."""
        return sum(len(entry.records) for entry in self._entries.values())

    def _entry(self, kernel: Kernel) -> _Entry:
        return self._entries.get(kernel.key) or _Entry()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.directory / _LOCK, timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise RecordsError(
                f"{self.directory} has been locked by another process for {_LOCK_TIMEOUT_S:g} s; "
                f"end that process, or name another directory with --records"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _check_manifest(self) -> None:
        expected = {"format": FORMAT, "target": self.target, "tvm": _tvm_version()}
        path = self.directory / MANIFEST
        if not path.exists():
            if any((self.directory / name).exists() for name in (WORKLOADS, RECORDS)):
                raise RecordsError(
                    f"{self.directory} holds records without a {MANIFEST} that says what target they "
                    f"are for; remove them, or name another directory with --records"
                )
            part = path.with_name(MANIFEST + ".part")
            part.write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key, value in expected.items() if found.get(key) != value]
        except (ValueError, AttributeError) as error:
            raise RecordsError(f"{path} is not the JSON of a manifest: {error}") from error
        if differing:
            key = differing[0]
            raise RecordsError(
                f"records hold for one target and TVM version: {self.directory} has {key} "
                f"{found.get(key)!r}, not {expected[key]!r}; name another directory with --records"
            )

    def _repair(self) -> None:
        """Cut off a last line that a killed writer left unfinished."""
        for name in self._offsets:
            path = self.directory / name
            if not path.exists() or path.stat().st_size == 0:
                continue
            with path.open("rb+") as file:
                content = file.read()
                if content.endswith(b"\n"):
                    continue
                keep = content.rfind(b"\n") + 1
                # TVM's own writer ends the file without a newline: a whole line stays.
                if _is_json(content[keep:]):
                    file.write(b"\n")
                    continue
                _log.warning(
                    "%s ended in the middle of a line, after a kill or a full disk; cut off %d bytes",
                    path,
                    len(content) - keep,
                )
                file.truncate(keep)

    def _refresh(self) -> None:
        for line in self._new_lines(WORKLOADS):
            try:
                digest = json.loads(line[1])[0]
                key = f"{int(digest) & (2**64 - 1):016x}"
            except (ValueError, TypeError, IndexError) as error:
                raise self._unreadable(WORKLOADS, len(self._keys) + 1) from error
            entry = self._entries.setdefault(key, _Entry())
            if entry.workload is None:
                entry.workload = len(self._keys)
            self._keys.append(key)
        for number, line in enumerate(self._new_lines(RECORDS), 1):
            try:
                workload, mean_s = _parse_times(line[1])
                key = self._keys[workload]
            except (ValueError, TypeError, IndexError) as error:
                raise self._unreadable(RECORDS, number) from error
            if mean_s is not None:
                self._entries[key].records.append((mean_s, line[0]))
        for number, line in enumerate(self._new_lines(EFFORT), 1):
            try:
                effort = json.loads(line[1])
                entry = self._entries.setdefault(effort["kernel"], _Entry())
                entry.tried += int(effort["tried"])
                entry.exhausted = entry.exhausted or bool(effort["exhausted"])
            except (ValueError, TypeError, KeyError) as error:
                raise self._unreadable(EFFORT, number) from error

    def _unreadable(self, name: str, number: int) -> RecordsError:
        return RecordsError(
            f"{self.directory / name} is unreadable near new line {number}; "
            f"restore it, or name another directory with --records"
        )

    def _new_lines(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line) of each whole line not read yet."""
        path = self.directory / name
        if not path.exists() or path.stat().st_size <= self._offsets[name]:
            return
        with path.open("rb") as file:
            file.seek(self._offsets[name])
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset = self._offsets[name]
                self._offsets[name] += len(line)
                if line.strip():
                    yield offset, line

    def _line(self, name: str, offset: int) -> bytes:
        with (self.directory / name).open("rb") as file:
            file.seek(offset)
            return file.readline()

    def _append(self, name: str, lines: Sequence[str]) -> None:
        data = "".join(line + "\n" for line in lines).encode()
        descriptor = os.open(
            self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                os.write(descriptor, data[written:])
        except OSError as error:
            raise RecordsError(f"cannot write {self.directory / name}: {error}") from error
        finally:
            os.close(descriptor)


def _tvm_version() -> str:
    from importlib.metadata import version

    return version("apache-tvm")


def _workload_json(kernel: Kernel) -> list[Any]:
    from tvm.s_tir.meta_schedule.database import Workload

    return [str(part) for part in Workload(kernel.workload).as_json()]


def _record_line(workload: int | None, measurement: Measurement, target: str) -> str:
    return json.dumps(
        [
            workload,
            [
                measurement.trace,
                list(measurement.run_times_s),
                json.loads(target),
                measurement.arguments,
            ],
        ]
    )


def _parse_record(line: bytes) -> Measurement:
    _, (trace, run_times_s, _, arguments) = json.loads(line)
    return Measurement(trace, tuple(float(time) for time in run_times_s), arguments)


def _parse_times(line: bytes) -> tuple[int, float | None]:
    """Return the workload's number and the mean run time in seconds, `None` for a failed schedule."""
    found = _RUN_TIMES.search(line, max(0, len(line) - 2000))
    if found is None:
        workload, (_, run_times, _, _) = json.loads(line)
        times = [float(time) for time in run_times]
    else:
        workload = int(line[1 : line.index(b",")])
        times = [float(time) for time in found.group(1).split(b",")]
    mean_s = sum(times) / len(times)
    # MetaSchedule writes 1e10 for a schedule that failed.
    return int(workload), mean_s if 0.0 < mean_s < 1e9 else None


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
