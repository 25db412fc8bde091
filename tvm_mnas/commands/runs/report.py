"""`tvm-mnas report`: a run's Pareto front, its figures and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, format_count, format_ms, print_json, print_table

if TYPE_CHECKING:
    from tvm_mnas.report.rows import CandidateRow


def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: AsJson = False
) -> None:
    """Show a run's Pareto front and write its figures and page to RUN/report."""
    from tvm_mnas.report.html import write_report
    from tvm_mnas.report.rows import SCHEMA_VERSION, forecast_latency, pareto_rows
    from tvm_mnas.report.text import latency_forecast_line
    from tvm_mnas.search.run import RunDirectory

    directory = RunDirectory.open(run)
    records = directory.finished_trials()
    files = write_report(directory, records)
    rows, forecast = pareto_rows(records), forecast_latency(records)
    if as_json:
        print_json(
            {
                "schema": SCHEMA_VERSION,
                "run": str(run),
                "pareto": [asdict(row) for row in rows],
                "forecast": None if forecast is None else forecast.to_json(),
                "files": [str(file) for file in files],
            }
        )
        return
    print_pareto_front(rows)
    if forecast is not None:
        OUTPUT.print(latency_forecast_line(forecast), markup=False)
    for file in files:
        OUTPUT.print(str(file), markup=False)


def print_pareto_front(rows: Sequence[CandidateRow]) -> None:
    """Print the candidates that none beats, as `report.rows.pareto_rows` returns them."""
    from tvm_mnas.devices.core.latency import format_percent
    from tvm_mnas.report.trials import EMULATED

    # A column of zeros would say nothing, and in 80 columns there is room for one of the two.
    flagged = any(row.untuned_percent for row in rows)
    columns = (
        Column("trial", "trial"),
        Column("id", "id", number=False),
        Column("accuracy", "accuracy"),
        Column("latency", "latency"),
        *([Column("untuned", "untuned")] if flagged else []),
        Column("spread", "spread"),
        Column("reward", "reward"),
        *([] if flagged else [Column("params", "params")]),
        Column("mult-adds", "mult_adds"),
    )
    shown = [
        {
            "trial": row.trial,
            "id": row.id,
            "accuracy": f"{row.accuracy_percent:.2f} %",
            "latency": format_ms(row.latency_ms) + (f", {EMULATED}" if row.emulated else ""),
            "untuned": f"{format_percent(row.untuned_percent or 0.0)} %",
            "spread": f"{row.spread_percent:.1f} %" + (" !" if row.noisy or row.warnings else ""),
            "reward": f"{row.reward:.4f}",
            "params": format_count(row.parameters),
            "mult_adds": format_count(row.mult_adds),
        }
        for row in rows
    ]
    title = "Pareto front (! marks a spread beyond the profile's, or a device that changed)"
    if flagged:
        title += "\nuntuned: the part of the run time in kernels without a tuning record"
    print_table(title, columns, shown, as_json=False)
