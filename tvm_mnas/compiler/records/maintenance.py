"""Keeps stores of tuning records in order: finds them, sums them up, merges them, drops what is not needed.

None of this needs TVM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_mnas.compiler.records.formats import (
    HISTORY,
    MANIFEST,
    RECORDS,
    WORKLOADS,
    HistoryEvent,
    StoreManifest,
)
from tvm_mnas.compiler.records.layered import SHIPPED
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """A store in a row: kernels, those of them with a schedule that ran, schedules kept, failures by reason."""

    directory: Path
    manifest: StoreManifest
    kernels: int
    valid: int
    schedules: int
    failures: dict[str, int]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a store got from another one."""

    source: Path
    kernels: int
    schedules: int


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What became of a store's schedules, and the size of their file before and after."""

    directory: Path
    kept: int
    dropped: int
    before_bytes: int
    after_bytes: int


def is_store(directory: Path) -> bool:
    """Whether a store of records lies in `directory`, damaged or not."""
    return any((directory / name).is_file() for name in (MANIFEST, WORKLOADS, RECORDS))


def find_stores(directory: Path, *, shipped: bool) -> tuple[Path, ...]:
    """Return `directory` if it is a store, or the stores in it by name; with `shipped` those in `shipped/` too.

    Raises:
        RecordsError: if there is no such directory or no store in it.
    """
    if is_store(directory):
        return (directory,)
    if not directory.is_dir():
        raise RecordsError(
            f"{directory}: tuning records are kept in a directory, and there is none; "
            f"`tvm-mnas records list` shows the stores"
        )
    places = [directory, directory / SHIPPED] if shipped else [directory]
    found = tuple(
        path
        for place in places
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.is_dir() and is_store(path)
    )
    if not found:
        raise RecordsError(
            f"{directory}: a store of tuning records is KEY-DIGEST with a {MANIFEST}, and there is none; "
            f"`tvm-mnas search --records {directory}` makes one"
        )
    return found


def summarize_store(directory: Path) -> StoreSummary:
    """Return what the store in `directory` holds.

    Raises:
        RecordsError: if it is damaged or cannot be read.
    """
    store = RecordStore.read(directory)
    failures: Counter[str] = Counter()
    kernels = store.summaries()
    for kernel in kernels:
        failures.update(kernel.failures)
    return StoreSummary(
        directory=directory,
        manifest=store.manifest,
        kernels=len(kernels),
        valid=len(store),
        schedules=sum(kernel.schedules for kernel in kernels),
        failures=dict(failures),
        size_bytes=sum(_size_bytes(directory / name) for name in (WORKLOADS, RECORDS, HISTORY)),
    )


def merge_stores(sources: Sequence[Path], into: Path) -> list[MergeResult]:
    """Add to the store `into` the kernels and schedules of `sources` that it lacks; it is made if absent.

    All is for one target and one version of TVM. Doing it again changes nothing. Each source is looked at before
    anything is written.

    Raises:
        RecordsError: if a store is for something else, damaged, or cannot be read or written.
    """
    stores = [RecordStore.read(source) for source in sources]
    if into.is_dir() and not is_store(into) and any(into.iterdir()):
        raise RecordsError(
            f"{into}: records are merged into a store, or into a new or empty directory, and this is neither; "
            f"name the store itself, for example {into / stores[0].directory.resolve().name}"
        )
    manifest = StoreManifest.read(into) if is_store(into) else stores[0].manifest
    for store in stores:
        if is_store(into) and store.directory.samefile(into):
            raise RecordsError(
                f"{into}: records are merged from one store into another, and this is both; "
                f"`tvm-mnas records list` shows the stores"
            )
        difference = manifest.difference(store.manifest)
        if difference is not None:
            raise RecordsError(
                f"{store.directory}: only records of one target and TVM can be merged, and these are "
                f"{difference}; `tvm-mnas records list` shows what each store is for"
            )
    target = RecordStore.open_for(into, manifest)
    return [_merge(store, target) for store in stores]


def _merge(source: RecordStore, into: RecordStore) -> MergeResult:
    kernels = schedules = 0
    with into.changing(f"tvm-mnas records merge {source.directory} {into.directory}"):
        known = into.keys()
        for summary in source.summaries():
            key = summary.key
            held = set(into.records_of(key))
            lacking = [
                record for record in dict.fromkeys(source.records_of(key)) if record not in held
            ]
            workload, events = source.contents_of(key)
            if key in known:
                events = _addition(events, lacking=len(lacking), budget=into.budget(key))
            into.append(key, workload, lacking, events)
            kernels += key not in known
            schedules += len(lacking)
    return MergeResult(source.directory, kernels, schedules)


def _addition(events: Sequence[HistoryEvent], *, lacking: int, budget: int) -> list[HistoryEvent]:
    """Return what the history of a kernel gets that was known with `budget`, along with `lacking` schedules."""
    spent = max((event.budget for event in events), default=0)
    if not events or (lacking == 0 and spent <= budget):
        return []
    # Not the events as they are: what they measured and what failed may be in the history already.
    return [replace(events[-1], budget=spent, measured=lacking, failures={}, duration_s=0.0)]


def prune_store(directory: Path, *, keep: int) -> PruneResult:
    """Keep the best `keep` schedules of each kernel in the store in `directory`, and none that failed.

    Kernels keep their history, and so their budget. Processes that work with the store may go on.

    Raises:
        ValueError: if `keep` is less than 1.
        RecordsError: if there is no store, it is damaged, or it cannot be written; it stays as it was.
    """
    if keep < 1:
        raise ValueError(f"a kernel keeps 1 schedule or more, not {keep}")
    path = directory / RECORDS
    store = RecordStore.open_for(directory, StoreManifest.read(directory))
    with store.changing(f"tvm-mnas records prune {directory} --keep {keep}"):
        before_bytes = _size_bytes(path)
        kept, dropped = store.keep_best(keep)
        return PruneResult(directory, kept, dropped, before_bytes, _size_bytes(path))


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
