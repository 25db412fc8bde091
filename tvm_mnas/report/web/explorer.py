"""The candidates of a run for the page's script: every row as numbers and texts, in JSON that a page may hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from tvm_mnas.devices.core.latency import format_percent
from tvm_mnas.report.rows import CandidateRow
from tvm_mnas.report.web.cells import show_accuracy, show_ms, show_spread
from tvm_mnas.report.web.content import Column, Explorer, show_rows

FIRST_ROWS = 50
"""As many rows are on the page before its script runs, or where none does: on paper."""


def make_explorer(
    rows: Sequence[CandidateRow],
    *,
    front: Collection[int],
    finalists: Collection[int],
    target_ms: float,
) -> Explorer:
    """Return the table of `rows`; `front` and `finalists` are trial numbers."""
    emulated = any(row.emulated for row in rows)
    columns = (
        Column("trial", "trial"),
        Column("accuracy", "accuracy"),
        Column("time (emulated)" if emulated else "latency", "latency"),
        Column("reward", "reward"),
        Column("mult-adds", "mult_adds", lambda value: f"{value / 1e6:,.2f}M"),
        Column("architecture", "architecture", number=False, style="code"),
    )
    shown = [
        {
            "trial": row.trial,
            "accuracy": show_accuracy(row),
            "latency": show_ms(row.latency_ms),
            "reward": f"{row.reward:.4f}",
            "mult_adds": row.mult_adds,
            "architecture": row.architecture,
        }
        for row in rows[:FIRST_ROWS]
    ]
    values = {
        "target_ms": target_ms,
        "rows": [_row(row, front=front, finalists=finalists) for row in rows],
    }
    return Explorer(columns, show_rows(columns, shown), total=len(rows), data=json_for_page(values))


def json_for_page(values: object) -> str:
    """Return `values` as JSON that cannot end the element that holds it."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(
    row: CandidateRow, *, front: Collection[int], finalists: Collection[int]
) -> dict[str, Any]:
    flags = list(row.warnings)
    if row.untuned_percent:
        flags.append(f"{format_percent(row.untuned_percent)}% of it in untuned kernels")
    if row.emulated:
        flags.append("emulated: not a latency")
    values: dict[str, Any] = {
        "n": row.trial,
        "id": row.id,
        "acc": round(row.accuracy_percent, 3),
        "err": round(row.accuracy_error_percent, 2),
        "ms": float(f"{row.latency_ms:.5g}"),
        "how": show_spread(row),
        "r": round(row.reward, 5),
        "par": row.parameters,
        "ma": row.mult_adds,
        "a": row.architecture,
    }
    if flags:
        values["warn"] = flags
    if row.trial in front:
        values["f"] = 1
    if row.trial in finalists:
        values["fin"] = 1
    return values
