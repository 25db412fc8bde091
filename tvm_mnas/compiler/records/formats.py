"""What lies in the files of a store of tuning records: its manifest, and what a line of the others means.

A record of a schedule is some ten kilobytes, nearly all of them its trace, which opening a store has no use for. So
`ScheduleParser` takes what it needs from the line's two ends and leaves the rest to whoever asks for the record.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tvm_mnas.compiler.core.metaschedule import key_of
from tvm_mnas.errors import RecordsError
from tvm_mnas.files import atomic_write_text

FORMAT = 1

WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"
HISTORY = "history.jsonl"
MANIFEST = "manifest.json"

FAILED_S = 1e10
"""The run time that MetaSchedule gives to a schedule that failed."""

_BOUNDARY = b"], {"
"""Between a record's run times and its target, as `json.dumps` writes it."""


@dataclass(frozen=True, slots=True)
class StoreManifest:
    """What a store's records are valid for: the target's JSON text and the version of TVM."""

    target: str
    tvm: str
    format: int = FORMAT

    @classmethod
    def of_this(cls, target: str) -> StoreManifest:
        """Return what records have to be for, to serve `target` with the TVM that is installed."""
        return cls(target, version("apache-tvm"))

    @classmethod
    def read(cls, directory: Path) -> StoreManifest:
        """Return the manifest of the store in `directory`.

        Raises:
            RecordsError: if it is absent or damaged.
        """
        path = directory / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls(str(values["target"]), str(values["tvm"]), int(values["format"]))
        except FileNotFoundError as error:
            raise RecordsError(
                f"{directory}: a store of tuning records has a {MANIFEST}, and there is none; "
                f"`tvm-mnas records list` shows the stores"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise RecordsError(
                f"{path}: a manifest is JSON with format, target and tvm ({type(error).__name__}: {error}); "
                f"restore it from a copy, or delete {directory} to tune anew"
            ) from error
        return manifest

    def write(self, directory: Path) -> None:
        """Write this as the manifest of `directory`: whole, or not at all."""
        path = directory / MANIFEST
        values = {"format": self.format, "target": self.target, "tvm": self.tvm}
        atomic_write_text(path, json.dumps(values, indent=2) + "\n")

    def target_values(self) -> dict[str, Any]:
        """Return what the target's JSON text says.

        Raises:
            ValueError: if it is no JSON object.
        """
        values = json.loads(self.target)
        if not isinstance(values, dict):
            raise ValueError(f"not {self.target}")
        return values

    def difference(self, other: StoreManifest) -> str | None:
        """Return how `other` differs from this, None if its records are for the same."""
        for name in ("format", "target", "tvm"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"for {name} {theirs!r}, not {mine!r}"
        return None


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """A line of the history: one tuning of one kernel.

    `budget` is the number of schedules that it was tuned to, `measured` of those that this took, `failures` are
    counted by reason. `flops` are the kernel's floating-point operations, None where they were not noted.
    """

    key: str
    name: str
    budget: int
    measured: int
    failures: Mapping[str, int]
    duration_s: float
    flops: int | None = None

    def to_line(self) -> bytes:
        """Return the line of this event, with its end."""
        values: dict[str, Any] = {
            "key": self.key,
            "name": self.name,
            "budget": self.budget,
            "measured": self.measured,
            "failures": dict(self.failures),
            "duration_s": round(self.duration_s, 3),
        }
        if self.flops is not None:
            values["flops"] = self.flops
        return json.dumps(values).encode() + b"\n"


def parse_workload(text: bytes) -> str:
    """Return the key of the kernel in a line `[structural hash, code]`.

    Raises:
        ValueError: if the line is something else.
    """
    match json.loads(text):
        case [str(structural_hash), str()]:
            return key_of(structural_hash)
    raise ValueError("it is not a kernel's hash and code")


def compact_workload(text: str) -> str:
    """Return the line of a kernel with the blanks taken out of its code: half as long, and the same to TVM.

    The code is base64 of the length of a JSON text, in 8 bytes, and that text; a line with another stays as it is.
    """
    structural_hash, code = json.loads(text)
    try:
        content = base64.b64decode(code, validate=True)
        if struct.unpack_from("<Q", content)[0] != len(content) - 8:
            return text
        graph = json.dumps(json.loads(content[8:]), separators=(",", ":")).encode()
    except (ValueError, struct.error):
        return text
    packed = base64.b64encode(struct.pack("<Q", len(graph)) + graph).decode()
    return json.dumps([structural_hash, packed])


def parse_event(text: bytes) -> HistoryEvent:
    """Return the event in a line of the history.

    Raises:
        ValueError: if the line is something else.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is not an event of a tuning")
    try:
        flops = values.get("flops")
        return HistoryEvent(
            key=str(values["key"]),
            name=str(values["name"]),
            budget=int(values["budget"]),
            measured=int(values["measured"]),
            failures={str(reason): int(count) for reason, count in values["failures"].items()},
            duration_s=float(values["duration_s"]),
            flops=None if flops is None else int(flops),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"an event of a tuning lacks or misstates {error}") from error


def parse_schedule(text: bytes) -> tuple[int, float, list[Any]]:
    """Return the kernel's line, from 0, the mean run time in seconds and MetaSchedule's record of a line.

    The line is `[kernel's line, [trace, run times, target, arguments]]`, the time infinite for a schedule that
    failed. This reads all of it; `ScheduleParser` gives the first two in a fraction of the time.

    Raises:
        ValueError: if the line is something else.
    """
    match json.loads(text):
        case [int(line), [list(), list() | None as runs, dict(), list()] as record] if line >= 0:
            try:
                return line, mean_s(runs or []), record
            except TypeError as error:
                raise ValueError(f"its run times must be numbers, not {runs}") from error
    raise ValueError("it is not a kernel's line and a record of a schedule")


class ScheduleParser:
    """Reads the kernel's line and the mean run time of one record after another, without their traces.

    Damage within a trace goes unnoticed here, and is found when the record itself is read.
    """

    def __init__(self) -> None:
        self._ends: set[bytes] = set()

    def __call__(self, text: bytes) -> tuple[int, float]:
        """Return the kernel's line, from 0, and the mean run time in seconds, infinite if it failed.

        Raises:
            ValueError: if the line is no record.
        """
        boundary = text.rfind(_BOUNDARY)
        start = text.rfind(b"[", 0, boundary)
        comma = text.find(b", [[", 0, 16)
        if start < 3 or comma < 2 or text[:1] != b"[" or text[start - 3 : start] != b"], ":
            return parse_schedule(text)[:2]
        end = text[boundary + 3 :]
        # Only a few ends differ: one for each kernel's arguments. Each is looked at once.
        if end not in self._ends:
            if not _is_end(end):
                return parse_schedule(text)[:2]
            self._ends.add(end)
        try:
            runs = [float(run) for run in text[start + 1 : boundary].split(b",")]
            return int(text[1:comma]), mean_s(runs)
        except ValueError:
            return parse_schedule(text)[:2]


def _is_end(end: bytes) -> bool:
    """Whether `end` is what follows the run times of a record: `{target}, [arguments]]]`, and no part of a trace."""
    try:
        # Its two last brackets close the record and the line, so that it stands where it should.
        match json.loads(b"[" + end.rstrip().removesuffix(b"]")):
            case [dict(), list()]:
                return True
    except ValueError:
        pass
    return False


def mean_s(runs: Sequence[float]) -> float:
    """Return the mean of the run times of a schedule in seconds, infinite for one that failed."""
    if not runs:
        return math.inf
    mean = math.fsum(float(run) for run in runs) / len(runs)
    return mean if mean < FAILED_S else math.inf
