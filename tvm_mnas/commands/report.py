"""`tvm-mnas report`: a run's Pareto front, its figures and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, format_count, format_ms, print_json, print_table


def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: AsJson = False
) -> None:
    """Show a run's Pareto front and write its figures and page to RUN/report."""
    from tvm_mnas.report.html import write_report
    from tvm_mnas.report.tables import forecast_line, forecast_row, pareto_rows
    from tvm_mnas.search.run import RunDirectory

    directory = RunDirectory.open(run)
    records = directory.finished_trials()
    files = write_report(directory, records)
    rows, forecast = pareto_rows(records), forecast_row(records)
    if as_json:
        names = [str(file) for file in files]
        print_json({"run": str(run), "pareto": rows, "forecast": forecast, "files": names})
        return
    print_pareto_front(rows)
    if forecast is not None:
        OUTPUT.print(forecast_line(forecast), markup=False)
    for file in files:
        OUTPUT.print(str(file), markup=False)


def print_pareto_front(rows: list[dict[str, Any]]) -> None:
    """Print the candidates that none beats, as `report.tables.pareto_rows` returns them."""
    from tvm_mnas.devices.core.latency import format_percent
    from tvm_mnas.report.tables import EMULATED

    # A column of zeros would say nothing, and in 80 columns there is room for one of the two.
    flagged = any(row["untuned_percent"] for row in rows)
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
            "trial": row["trial"],
            "id": row["id"],
            "accuracy": f"{row['accuracy_percent']:.2f} %",
            "latency": format_ms(row["latency_ms"]) + (f", {EMULATED}" if row["emulated"] else ""),
            "untuned": f"{format_percent(row['untuned_percent'] or 0.0)} %",
            "spread": f"{row['spread_percent']:.1f} %"
            + (" !" if row["noisy"] or row["warnings"] else ""),
            "reward": f"{row['reward']:.4f}",
            "params": format_count(row["parameters"]),
            "mult_adds": format_count(row["mult_adds"]),
        }
        for row in rows
    ]
    title = "Pareto front (! marks a spread beyond the profile's, or a device that changed)"
    if flagged:
        title += "\nuntuned: the part of the run time in kernels without a tuning record"
    print_table(title, columns, shown, as_json=False)
