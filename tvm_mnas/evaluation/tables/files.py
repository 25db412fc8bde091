"""A table on disk: JSON lines that a build appends to, and the manifest that says when they are whole.

    accuracies.jsonl   one training a line
    networks.jsonl     one architecture a line: how often it calls which kernel
    kernels.jsonl      one kernel of the space a line: its times
    latencies.jsonl    one latency a line: tuned or untuned, of which pass
    manifest.json      written last; has the SHA-256 of each

While a table is built there is no manifest, a file may end in a torn line, and lines are in the order in which they
came. What all latencies have in common (the device) is in the manifest once, and in `device.json` until that is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tvm_mnas.devices.core.latency import Coverage, Latency
from tvm_mnas.errors import ConfigError, RunError, TvmMnasError
from tvm_mnas.evaluation.tables.manifest import TableDevice, TableManifest
from tvm_mnas.evaluation.tables.table import (
    KINDS,
    PASSES,
    SEEDS,
    EvaluationTable,
    KernelTime,
    LatencyKind,
    TableEntry,
)
from tvm_mnas.files import atomic_write_text
from tvm_mnas.models.cost import count_cost
from tvm_mnas.resources import resource_directory
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.training.accuracy import Accuracy

MANIFEST = "manifest.json"
ACCURACIES, NETWORKS, KERNELS, LATENCIES = (
    f"{name}.jsonl" for name in ("accuracies", "networks", "kernels", "latencies")
)
FILES = (ACCURACIES, NETWORKS, KERNELS, LATENCIES)
_SHIPPED = "tables"
_DIGITS = 6
"""Significant digits of a time in a line: a nanosecond of a millisecond."""

Line = dict[str, Any]


def table_names() -> tuple[str, ...]:
    """Return the names of the tables that ship."""
    directory = resource_directory("search_space") / _SHIPPED
    return tuple(sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}")))


def find_table(name_or_path: str) -> Path:
    """Return the directory of the table that ships under this name, or that is this directory.

    Raises:
        ConfigError: if there is neither.
    """
    path = Path(name_or_path)
    for directory in (path, resource_directory("search_space") / _SHIPPED / name_or_path):
        if (directory / MANIFEST).is_file():
            return directory
    if path.is_dir():
        raise ConfigError(
            f"{path} holds no finished table: it lacks {MANIFEST}; `tvm-mnas table build -o {path}` goes on with it"
        )
    raise ConfigError(
        f"a table must be a directory or one of {', '.join(table_names()) or 'those that ship (none)'}, "
        f"not {name_or_path!r}; `tvm-mnas table build` makes one"
    )


def read_manifest(directory: Path) -> TableManifest:
    """Return the manifest of the table in `directory`.

    Raises:
        RunError: if it cannot be read.
    """
    file = directory / MANIFEST
    try:
        return TableManifest.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: a table's manifest cannot be read: {error}") from error
    except RunError as error:
        raise RunError(f"{file}: {error}; restore the file, or build the table again") from error


def read_table(directory: Path) -> EvaluationTable:
    """Return the table in `directory`, after a look whether its files are those of its manifest.

    Raises:
        RunError: if a file differs from its checksum, cannot be read, or the table is not whole.
    """
    manifest = read_manifest(directory)
    for name in FILES:
        _check_sum(directory / name, manifest.files.get(name))
    entries, kernels = read_entries(directory, manifest.steps, manifest.device)
    if len(entries) != manifest.architectures:
        raise RunError(
            f"{directory}: the table is of {manifest.architectures} architectures and holds {len(entries)}; "
            f"build it again"
        )
    return EvaluationTable(manifest, entries, kernels)


def read_entries(
    directory: Path, steps: Sequence[int], device: TableDevice
) -> tuple[tuple[TableEntry, ...], dict[str, KernelTime]]:
    """Return what the files of a table hold, whole or under construction: its architectures and its kernels.

    Raises:
        RunError: if they cannot be read, or an architecture lacks a training or a latency.
    """
    try:
        kernels = {line["key"]: KernelTime(**line) for line in read_lines(directory / KERNELS)}
        accuracies = accuracies_of(read_lines(directory / ACCURACIES))
        latencies = latencies_of(read_lines(directory / LATENCIES), device)
        entries = tuple(
            _entry(line, steps, accuracies, latencies) for line in read_lines(directory / NETWORKS)
        )
    except (KeyError, TypeError, ValueError, TvmMnasError) as error:
        raise RunError(
            f"{directory}: the table cannot be read: {type(error).__name__}: {error}; build it again"
        ) from error
    if foreign := {key for entry in entries for key in entry.calls} - set(kernels):
        raise RunError(f"{directory}: {KERNELS} lacks kernel {min(foreign)}; build the table again")
    return entries, kernels


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a file of a table; none where there is no file, a torn last one is left out.

    Raises:
        RunError: if another line cannot be read.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found: list[Line] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{path}:{number}: no JSON: {error}; delete the line") from error
    return found


def append_lines(path: Path, lines: Iterable[Line]) -> None:
    """Append `lines`, each whole or, if the process is killed, torn at the file's end; a torn end is cut off first."""
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    with path.open("ab+") as file:
        if not _ends_whole(file):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())


def _ends_whole(file: BinaryIO) -> bool:
    """Return whether a file is empty or ends with a line's end; its last byte tells."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a file of `lines`, whole or not at all."""
    atomic_write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def accuracy_line(notation: str, replicate: int, accuracy: Accuracy) -> Line:
    """Return the line of one training; `replicate` says which of the seeds."""
    return {
        "architecture": notation,
        "replicate": replicate,
        "accuracy": accuracy.to_json(),
    }


def latency_line(notation: str, kind: LatencyKind, turn: int, latency: Latency) -> Line:
    """Return the line of one latency of the pass `turn`, without what all have in common."""
    return {
        "architecture": notation,
        "kind": kind,
        "pass": turn,
        "samples_ms": [_rounded(sample) for sample in latency.samples_ms],
        "measured_at": latency.measured_at,
        "attempts": latency.attempts,
        "reference_ms": _rounded(latency.reference_ms),
        "reference_change": _rounded(latency.reference_change),
        "coverage": {
            "kernels": latency.coverage.kernels,
            "tuned_kernels": latency.coverage.tuned_kernels,
            "schedules": latency.coverage.schedules,
            "tuned_share": latency.coverage.tuned_share,
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def device_of(latency: Latency) -> TableDevice:
    """Return what a latency has in common with all others of its table."""
    return TableDevice(
        device_key=latency.device_key,
        fingerprint=latency.fingerprint,
        target=latency.target,
        tvm_version=latency.tvm_version,
        method=latency.method,
        max_spread=latency.max_spread,
        emulated=latency.emulated,
        dtype=latency.dtype,
        accumulator=latency.accumulator,
    )


def accuracies_of(lines: Iterable[Line]) -> dict[str, dict[int, dict[int, Accuracy]]]:
    """Return the accuracies by notation, steps and replicate."""
    found: dict[str, dict[int, dict[int, Accuracy]]] = {}
    for line in lines:
        accuracy = Accuracy.from_json(line["accuracy"])
        by_steps = found.setdefault(line["architecture"], {})
        by_steps.setdefault(accuracy.steps, {})[int(line["replicate"])] = accuracy
    return found


def latencies_of(
    lines: Iterable[Line], device: TableDevice
) -> dict[tuple[str, str], dict[int, Latency]]:
    """Return the latencies by notation and kind, and pass."""
    found: dict[tuple[str, str], dict[int, Latency]] = {}
    for line in lines:
        latency = Latency(
            samples_ms=tuple(line["samples_ms"]),
            device_key=device.device_key,
            fingerprint=device.fingerprint,
            target=device.target,
            tvm_version=device.tvm_version,
            measured_at=line["measured_at"],
            emulated=device.emulated,
            max_spread=device.max_spread,
            attempts=line["attempts"],
            method=device.method,
            coverage=Coverage(**line["coverage"]),
            reference_ms=line["reference_ms"],
            reference_change=line["reference_change"],
            dtype=device.dtype,
            accumulator=device.accumulator,
        )
        found.setdefault((line["architecture"], line["kind"]), {})[int(line["pass"])] = latency
    return found


def sort_lines(directory: Path, order: Sequence[str]) -> None:
    """Put the lines of a finished table in the order of the architectures, whatever order they came in."""
    at = {notation: index for index, notation in enumerate(order)}
    for name in FILES:
        lines = read_lines(directory / name)
        lines.sort(
            key=lambda line: (
                at.get(line.get("architecture", ""), 0),
                line.get("accuracy", {}).get("steps", 0),
                line.get("kind", ""),
                line.get("replicate", line.get("pass", 0)),
                line.get("key", ""),
            )
        )
        write_lines(directory / name, lines)


def checksums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the table in `directory`."""
    return {name: _sum_of(directory / name) for name in FILES}


def write_manifest(directory: Path, manifest: TableManifest) -> None:
    """Write the manifest, by which the table is finished."""
    text = json.dumps(manifest.to_json(), indent=1)
    atomic_write_text(directory / MANIFEST, f"{text}\n")


def _entry(
    line: Line,
    steps: Sequence[int],
    accuracies: Mapping[str, Mapping[int, Mapping[int, Accuracy]]],
    latencies: Mapping[tuple[str, str], Mapping[int, Latency]],
) -> TableEntry:
    notation = str(line["architecture"])
    architecture = parse_candidate(notation)
    if not isinstance(architecture, Architecture):
        raise RunError(f"a table is of architectures, not of {notation}")
    cost = count_cost(architecture)
    mine = accuracies[notation] if steps else {}
    tuned, untuned = (
        tuple(latencies[notation, kind][turn] for turn in range(PASSES)) for kind in KINDS
    )
    return TableEntry(
        notation=notation,
        accuracies={budget: tuple(mine[budget][seed] for seed in range(SEEDS)) for budget in steps},
        tuned=tuned,
        untuned=untuned,
        calls={str(key): int(calls) for key, calls in line["calls"].items()},
        parameters=cost.parameters,
        mult_adds=cost.mult_adds,
    )


def _check_sum(path: Path, expected: str | None) -> None:
    try:
        found = _sum_of(path)
    except OSError as error:
        raise RunError(f"{path}: a file of the table cannot be read: {error.strerror}") from error
    if found != expected:
        raise RunError(
            f"{path} is not the file that the table was finished with: its SHA-256 is {found}, its manifest says "
            f"{expected}; restore it, or build the table again"
        )


def _sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
