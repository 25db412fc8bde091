"""Reads a store of tuning records strictly, says what is wrong with it and where, and drops what is damaged.

Opening a store skips the traces of its records; here each line is read whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tvm_mnas.compiler.records.formats import (
    HISTORY,
    MANIFEST,
    RECORDS,
    WORKLOADS,
    StoreManifest,
    parse_event,
    parse_schedule,
    parse_workload,
)
from tvm_mnas.compiler.records.json_lines import hold_lock, parse_whole, read_lines, replace_lines
from tvm_mnas.compiler.records.layered import target_digest
from tvm_mnas.errors import RecordsError

_TARGET_KEYS = ("kind", "mtriple", "mcpu", "mattr", "num-cores")
"""What is the same in the target of a store and in those of its records, where both have it."""


class FindingKind(Enum):
    """What can be wrong with a store."""

    MANIFEST = "manifest"
    DAMAGED = "damaged"
    TORN = "torn"
    MISMATCH = "mismatch"
    OTHER_TVM = "other TVM"
    DUPLICATE = "duplicate"
    UNTUNED = "no valid record"

    @property
    def is_damage(self) -> bool:
        """Whether something is lost or false; the others are only to be known."""
        return self in (
            FindingKind.MANIFEST,
            FindingKind.DAMAGED,
            FindingKind.TORN,
            FindingKind.MISMATCH,
        )

    @property
    def is_repairable(self) -> bool:
        """Whether `repair_store` drops it."""
        return self in (FindingKind.DAMAGED, FindingKind.TORN)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a store: what, in which file and, counted from 1, in which line if in one."""

    kind: FindingKind
    path: Path
    line: int | None
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON values."""
        return {
            "kind": self.kind.value,
            "damage": self.kind.is_damage,
            "path": str(self.path),
            "line": self.line,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Repair:
    """What was found before a repair, and the copies of the files that it changed."""

    findings: tuple[Finding, ...]
    backups: tuple[Path, ...]


def check_store(directory: Path) -> tuple[Finding, ...]:
    """Return all that is wrong with the store in `directory`, which is left as it is.

    Raises:
        RecordsError: if it cannot be read.
    """
    try:
        with hold_lock(directory, alone=False):
            return _Check(directory).run()
    except OSError as error:
        raise RecordsError(
            f"cannot read the tuning records in {directory}: {error.strerror}; see `ls -l {directory}`"
        ) from error


def repair_store(directory: Path) -> Repair:
    """Drop the torn and damaged lines of the store in `directory`, after a copy of each file that has any.

    The records of a kernel whose line is damaged go with it. Whenever this is interrupted, no record names the line
    of another kernel than its own.

    Raises:
        RecordsError: if it cannot be read or written; each file is then as it was, or repaired.
    """
    try:
        with hold_lock(directory, alone=True):
            findings = _Check(directory).run()
            dropped: dict[str, set[int]] = {}
            for finding in findings:
                if finding.kind.is_repairable and finding.line is not None:
                    dropped.setdefault(finding.path.name, set()).add(finding.line)
            backups = tuple(_copy(directory / name) for name in dropped)
            # Records before kernels: one that is left has its kernel's line throughout.
            for name in (RECORDS, HISTORY):
                if name in dropped:
                    replace_lines(directory / name, _without(directory / name, dropped[name]))
            if WORKLOADS in dropped:
                path = directory / WORKLOADS
                replace_lines(path, _filled(path, dropped[WORKLOADS]))
            return Repair(findings, backups)
    except OSError as error:
        raise RecordsError(
            f"cannot repair the tuning records in {directory}: {error.strerror}; "
            f"make room, or copy them to where you may write"
        ) from error


@dataclass
class _Check:
    """One reading of a store."""

    directory: Path
    findings: list[Finding] = field(default_factory=list)
    manifest: StoreManifest | None = None
    kernels: dict[int, str] = field(default_factory=dict)
    lines: int = 0
    names: dict[str, str] = field(default_factory=dict)
    tuned: set[str] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    digests: dict[bytes, int] = field(default_factory=dict)

    def run(self) -> tuple[Finding, ...]:
        self._check_manifest()
        self._read(WORKLOADS, self._take_workload)
        self._read(RECORDS, self._take_record)
        self._read(HISTORY, self._take_event)
        first: dict[str, int] = {}
        for line, key in self.kernels.items():
            if first.setdefault(key, line) != line:
                self._find(
                    FindingKind.DUPLICATE,
                    WORKLOADS,
                    line + 1,
                    f"the kernel of line {first[key] + 1}",
                )
            elif key not in self.tuned:
                text = f"no schedule of {self.names.get(key, 'the kernel')} ({key}) ran"
                self._find(FindingKind.UNTUNED, WORKLOADS, line + 1, text)
        return tuple(self.findings)

    def _find(self, kind: FindingKind, name: str, line: int | None, text: str) -> None:
        self.findings.append(Finding(kind, self.directory / name, line, text))

    def _read(self, name: str, take: Callable[[int, bytes], None]) -> None:
        for number, text in read_lines(self.directory / name):
            try:
                parse_whole(lambda line, number=number: take(number, line), text)  # type: ignore[misc]
            except ValueError as error:
                kind = FindingKind.DAMAGED if text.endswith(b"\n") else FindingKind.TORN
                self._find(kind, name, number, str(error))

    def _check_manifest(self) -> None:
        try:
            self.manifest = StoreManifest.read(self.directory)
        except RecordsError as error:
            self._find(FindingKind.MANIFEST, MANIFEST, None, str(error).rpartition(";")[0])
            return
        try:
            wanted = StoreManifest.of_this(self.manifest.target)
            self.manifest.target_values()
        except ValueError as error:
            self._find(
                FindingKind.MANIFEST, MANIFEST, None, f"its target is no JSON object: {error}"
            )
            self.manifest = None
            return
        if self.manifest.format != wanted.format:
            text = f"it is of format {self.manifest.format}, and this reads {wanted.format}"
            self._find(FindingKind.MANIFEST, MANIFEST, None, text)
        if self.manifest.tvm != wanted.tvm:
            text = f"the records are for TVM {self.manifest.tvm}, and {wanted.tvm} is installed"
            self._find(FindingKind.OTHER_TVM, MANIFEST, None, text)
        named = re.fullmatch(r".+-([0-9a-f]{8})", self.directory.resolve().name)
        digest = target_digest(self.manifest.target)
        if named is not None and named[1] != digest:
            text = f"the directory is named for another target; that of {digest} is in it"
            self._find(FindingKind.MISMATCH, MANIFEST, None, text)

    def _take_workload(self, number: int, text: bytes) -> None:
        self.lines = number
        self.kernels[number - 1] = parse_workload(text)

    def _take_record(self, number: int, text: bytes) -> None:
        line, mean, record = parse_schedule(text)
        if line not in self.kernels:
            state = "is damaged" if line < self.lines else "is not there"
            raise ValueError(f"its kernel, line {line + 1} of {WORKLOADS}, {state}")
        if mean < float("inf"):
            self.tuned.add(self.kernels[line])
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if self.digests.setdefault(digest, number) != number:
            self._find(
                FindingKind.DUPLICATE, RECORDS, number, f"the same as line {self.digests[digest]}"
            )
        difference = self._target_difference(record[2])
        if difference is not None and difference not in self.targets:
            self.targets.add(difference)
            self._find(FindingKind.MISMATCH, RECORDS, number, difference)

    def _take_event(self, number: int, text: bytes) -> None:
        event = parse_event(text)
        self.names[event.key] = event.name

    def _target_difference(self, target: dict[str, Any]) -> str | None:
        if self.manifest is None:
            return None
        wanted = self.manifest.target_values()
        for name in _TARGET_KEYS:
            if name in wanted and name in target and wanted[name] != target[name]:
                return (
                    f"it is for a target with {name} {target[name]!r}, the store {wanted[name]!r}"
                )
        return None


def _copy(path: Path) -> Path:
    number = 1
    while (backup := path.with_name(f"{path.name}.backup{number}")).exists():
        number += 1
    shutil.copy2(path, backup)
    return backup


def _without(path: Path, dropped: set[int]) -> Iterator[bytes]:
    return (text for number, text in read_lines(path) if number not in dropped)


def _filled(path: Path, dropped: set[int]) -> Iterator[bytes]:
    """Yield the lines of kernels with the dropped ones replaced by a copy of another.

    Records name their kernel by its line, so no line may move; a kernel that is there twice harms nobody.
    """
    good = [number for number, _ in read_lines(path) if number not in dropped]
    if not good:
        return
    spare = next(text for number, text in read_lines(path) if number == good[0])
    for number, text in read_lines(path):
        if number <= good[-1]:
            yield spare if number in dropped else text
