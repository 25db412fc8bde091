"""`tvm-mnas records`: list, check, merge and prune stores of tuning records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import DEFAULTS, AsJson
from tvm_mnas.console import MESSAGES, OUTPUT, Column, print_json, print_table
from tvm_mnas.errors import RecordsError

if TYPE_CHECKING:
    from tvm_mnas.compiler.records.check import Finding
    from tvm_mnas.compiler.records.formats import StoreManifest

records_app = typer.Typer(
    no_args_is_help=True, help="Look after tuning records: list, check, merge and prune them."
)


@records_app.command("list")
def list_records(
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="A directory of stores, or one store to see its kernels; without it, yours and those that ship."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the stores in a directory, or the kernels of one store."""
    from tvm_mnas.compiler.records.layered import shipped_directory
    from tvm_mnas.compiler.records.maintenance import find_stores, is_store

    if directory is not None and is_store(directory):
        _list_kernels(directory, as_json=as_json)
    elif directory is not None:
        _list_stores(find_stores(directory, shipped=True), as_json=as_json)
    else:
        stores: list[Path] = []
        for place in (Path(DEFAULTS.records), shipped_directory()):
            if place is not None and place.is_dir():
                stores.extend(path for path in sorted(place.iterdir()) if is_store(path))
        _list_stores(tuple(stores), as_json=as_json)
        if not stores:
            MESSAGES.print("no store yet: `tvm-mnas search` makes one", markup=False)


def _list_stores(stores: tuple[Path, ...], *, as_json: bool) -> None:
    from tvm_mnas.compiler.records.maintenance import summarize_store

    rows: list[dict[str, Any]] = []
    for directory in stores:
        profile = directory.resolve().name.rpartition("-")[0] or directory.name
        row: dict[str, Any] = {"store": str(directory), "profile": profile}
        try:
            summary = summarize_store(directory)
        except RecordsError as error:
            row["problem"] = str(error)
            if not as_json:
                MESSAGES.print(str(error), markup=False)
        else:
            row |= {
                "target": summary.manifest.target,
                "tvm": summary.manifest.tvm,
                "kernels": summary.kernels,
                "valid": summary.valid,
                "schedules": summary.schedules,
                "failures": summary.failures,
                "size_bytes": summary.size_bytes,
            }
            if not as_json:
                row["target"] = _describe_target(summary.manifest)
                row["failures"] = _describe_failures(summary.failures)
                row["size"] = _format_size(summary.size_bytes)
        rows.append(row)
    columns = (
        Column("store", "store", number=False),
        Column("profile", "profile", number=False),
        Column("target", "target", number=False),
        Column("TVM", "tvm", number=False),
        Column("kernels", "kernels"),
        Column("valid", "valid"),
        Column("schedules", "schedules"),
        Column("failed", "failures", number=False, wraps=True),
        Column("size", "size"),
    )
    print_table("Stores of tuning records", columns, rows, as_json=as_json)


def _list_kernels(directory: Path, *, as_json: bool) -> None:
    from tvm_mnas.compiler.records.store import RecordStore

    rows: list[dict[str, Any]] = []
    for kernel in RecordStore.read(directory).summaries():
        gflops = None
        if kernel.flops is not None and kernel.best_us is not None:
            gflops = kernel.flops / kernel.best_us * 1e-3
        rows.append(
            {
                "kernel": kernel.name,
                "key": kernel.key,
                "best_us": kernel.best_us,
                "gflops": gflops,
                "schedules": kernel.schedules,
                "valid": kernel.valid,
                "budget": kernel.budget,
                "failures": dict(kernel.failures)
                if as_json
                else _describe_failures(kernel.failures),
            }
        )
    rows.sort(key=lambda row: row["best_us"] or 0.0, reverse=True)
    columns = (
        Column("kernel", "kernel", number=False, wraps=True),
        Column("key", "key", number=False),
        Column("best us", "best_us"),
        Column("GFLOP/s", "gflops"),
        Column("schedules", "schedules"),
        Column("valid", "valid"),
        Column("budget", "budget"),
        Column("failed", "failures", number=False, wraps=True),
    )
    print_table(f"Kernels of {directory}", columns, rows, as_json=as_json)


@records_app.command("check")
def check_records(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Stores, or directories of stores.")
    ],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Drop damaged lines, after a copy of their file was made."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every line of stores strictly and tell what is wrong; exit 1 if something is damaged."""
    from tvm_mnas.compiler.records.check import check_store, repair_store
    from tvm_mnas.compiler.records.maintenance import find_stores

    stores = [store for path in directories for store in find_stores(path, shipped=True)]
    findings: list[Finding] = []
    dropped: list[Finding] = []
    backups: list[Path] = []
    for store in stores:
        found = check_store(store)
        if repair and any(finding.kind.is_repairable for finding in found):
            repaired = repair_store(store)
            dropped.extend(item for item in repaired.findings if item.kind.is_repairable)
            backups.extend(repaired.backups)
            found = check_store(store)
        findings.extend(found)
    if as_json:
        print_json(
            {
                "stores": [str(store) for store in stores],
                "findings": [finding.to_json() for finding in findings],
                "dropped": [finding.to_json() for finding in dropped],
                "backups": [str(backup) for backup in backups],
            }
        )
    else:
        _print_findings("Dropped", dropped)
        for backup in backups:
            OUTPUT.print(f"copied before: {backup}", markup=False)
        _print_findings("Found", findings)
        if not findings:
            OUTPUT.print(f"{len(stores)} checked: nothing is wrong", markup=False)
    damage = [finding for finding in findings if finding.kind.is_damage]
    if damage:
        store = damage[0].path.parent
        advice = (
            f"`tvm-mnas records check --repair {store}` drops what is"
            if any(finding.kind.is_repairable for finding in damage)
            else f"no repair can help, so take {store} away to tune anew"
        )
        raise RecordsError(
            f"records are whole and of one target, and {len(damage)} findings say otherwise, "
            f"the first in {damage[0].path}; {advice}"
        )


def _print_findings(title: str, findings: list[Finding]) -> None:
    if not findings:
        return
    rows = [
        {
            "what": finding.kind.value,
            "where": f"{finding.path}" + ("" if finding.line is None else f":{finding.line}"),
            "text": finding.text,
        }
        for finding in findings
    ]
    columns = (
        Column("what", "what", number=False),
        Column("where", "where", number=False),
        Column("", "text", number=False, wraps=True),
    )
    print_table(title, columns, rows, as_json=False)


@records_app.command("merge")
def merge_records(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FROM...", help="Stores to take records from.")
    ],
    into: Annotated[Path, typer.Argument(metavar="INTO", help="The store that gets them.")],
    as_json: AsJson = False,
) -> None:
    """Add to INTO the kernels and schedules that it lacks, all of one target and TVM."""
    from tvm_mnas.compiler.records.maintenance import merge_stores

    rows = [
        {"from": str(merged.source), "kernels": merged.kernels, "schedules": merged.schedules}
        for merged in merge_stores(sources, into)
    ]
    columns = (
        Column("from", "from", number=False),
        Column("new kernels", "kernels"),
        Column("new schedules", "schedules"),
    )
    print_table(f"MergeResult into {into}", columns, rows, as_json=as_json)


@records_app.command("prune")
def prune_records(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A store, or a directory of stores.")
    ],
    keep: Annotated[int, typer.Option(min=1, help="Schedules that a kernel keeps: the best.")],
    as_json: AsJson = False,
) -> None:
    """Keep the best schedules of each kernel and none that failed."""
    from tvm_mnas.compiler.records.maintenance import find_stores, prune_store

    rows: list[dict[str, Any]] = []
    for store in find_stores(directory, shipped=False):
        pruned = prune_store(store, keep=keep)
        freed_bytes = pruned.before_bytes - pruned.after_bytes
        rows.append(
            {
                "store": str(store),
                "kept": pruned.kept,
                "dropped": pruned.dropped,
                "freed_bytes": freed_bytes,
                "freed": _format_size(freed_bytes),
            }
        )
    columns = (
        Column("store", "store", number=False),
        Column("kept", "kept"),
        Column("dropped", "dropped"),
        Column("freed", "freed"),
    )
    print_table(f"PruneResult to {keep} schedules a kernel", columns, rows, as_json=as_json)


def _describe_target(manifest: StoreManifest) -> str:
    """Return a target in short: `llvm znver5, 1 core`."""
    try:
        values = manifest.target_values()
    except ValueError:
        return manifest.target
    parts = [str(values.get("kind", "?")), str(values.get("mcpu") or values.get("mtriple") or "")]
    cores = values.get("num-cores")
    text = " ".join(part for part in parts if part)
    return text if cores is None else f"{text}, {cores} core" + ("" if cores == 1 else "s")


def _describe_failures(failures: Mapping[str, int]) -> str | None:
    """Return failures by reason, the most frequent first: `3 timeout, 1 crashed`."""
    if not failures:
        return None
    ranked = sorted(failures.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {reason}" for reason, count in ranked)


def _format_size(size_bytes: int) -> str:
    """Return a size with its unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes} B"
