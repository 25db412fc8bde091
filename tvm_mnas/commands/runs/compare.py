"""`tvm-mnas compare`: lay runs over each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, print_json, print_table

SCHEMA_VERSION = 1
"""Of what `--json` prints; rises when a key changes its meaning."""


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Two run directories or more.", metavar="RUN RUN...")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path(
        "compare.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Lay runs over each other in one page: fronts, best so far, and the settings in which they differ."""
    from tvm_mnas.report.html import run_facts, write_comparison
    from tvm_mnas.report.web.compare import summarize
    from tvm_mnas.search.run import RunDirectory

    facts = []
    for path in runs:
        directory = RunDirectory.open(path)
        facts.append(run_facts(directory, directory.finished_trials()))
    summaries = summarize(facts)
    write_comparison(facts, out)
    if as_json:
        rows = [asdict(one) for one in summaries]
        print_json({"schema": SCHEMA_VERSION, "runs": rows, "page": str(out)})
        return
    columns = (
        Column("run", "run", number=False),
        Column("trials", "trials"),
        Column("failed", "failed"),
        Column("best reward", "best_reward"),
        Column("accuracy %", "best_accuracy_percent"),
        Column("latency ms", "best_latency_ms"),
        Column("hypervolume %", "hypervolume_percent"),
    )
    print_table(
        f"By the reward of {facts[0].title}",
        columns,
        [asdict(one) for one in summaries],
        as_json=False,
    )
    OUTPUT.print(str(out), markup=False)
