"""`tvm-mnas paper thesis`: whether tuned latencies in the reward find better networks, tried on a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.commands.paper.figures import check_output, write_figure
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, print_json, print_table

if TYPE_CHECKING:
    from tvm_mnas.evaluation.tables.table import EvaluationTable

SCHEMA_VERSION = 1
"""Of what `--json` prints; rises when a key changes its meaning."""


def thesis(
    table: Annotated[
        str, typer.Option(help="A table of a whole space, by name or directory.")
    ] = "fashion-mini",
    latencies: Annotated[
        str | None, typer.Option(help="A further table, of which latencies alone are looked at.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Searches of each kind.")] = 20,
    evaluations: Annotated[int, typer.Option(min=4, help="Candidates of each search.")] = 100,
    jobs: Annotated[int, typer.Option(min=0, help="Searches side by side; 0: one a core.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG file to write.")] = Path(
        "thesis.png"
    ),
    as_json: AsJson = False,
) -> None:
    """The same search told mult-adds, parameters, untuned, forecast or tuned latency: what its picks are worth."""
    check_output(output)
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.evaluation.tables.files import find_table, read_table
    from tvm_mnas.paper.stand_ins import agreements, operation_effects
    from tvm_mnas.paper.thesis import judge, make_picks, sentence
    from tvm_mnas.paper.thesis_figure import thesis_figure

    directory = find_table(table)
    shown = [read_table(directory)]
    if latencies is not None:
        shown.append(read_table(find_table(latencies)))
    with SearchDisplay() as display:
        picks = make_picks(
            directory,
            seeds=seeds,
            evaluations=evaluations,
            jobs=jobs or usable_processes(),
            on_progress=lambda done, total: display.stage("seeds", done, total),
        )
    verdicts = judge(picks)
    write_figure(output, thesis_figure(verdicts, shown, seed=0))
    if as_json:
        print_json(
            {
                "schema": SCHEMA_VERSION,
                "verdicts": [asdict(one) for one in verdicts],
                "agreements": {t.name: [asdict(a) for a in agreements(t, seed=0)] for t in shown},
                "effects": {
                    t.name: [asdict(e) for e in operation_effects(t, seed=0)] for t in shown
                },
                "picks": [asdict(pick) for pick in picks],
                "shows": sentence(verdicts),
                "file": str(output),
            }
        )
        return
    columns = (
        Column("constraint", "reward", number=False),
        Column("latency told", "stand_in", number=False),
        Column("mean regret %", "mean"),
        Column("median (quartiles)", "middle"),
        Column("beyond the target %", "beyond"),
        Column("hypervolume %", "volume"),
        Column("p against tuned", "p"),
    )
    rows = [
        {
            "reward": one.reward,
            "stand_in": one.stand_in,
            "mean": f"{one.mean_regret_percent:.2f}",
            "middle": f"{one.regret_percent:.2f} ({one.regret_quartiles_percent[0]:.2f} to "
            f"{one.regret_quartiles_percent[1]:.2f})",
            "beyond": f"{one.beyond_percent:.0f}",
            "volume": f"{one.hypervolume_percent:.1f}",
            "p": None if one.p is None else f"{one.p:.2g}",
        }
        for one in verdicts
    ]
    title = f"{len(picks)} searches of {evaluations} candidates on {shown[0].name}, {seeds} seeds, three targets"
    print_table(title, columns, rows, as_json=False)
    for one in shown:
        _print_agreements(one)
        _print_effects(one.name, [asdict(e) for e in operation_effects(one, seed=0)])
    OUTPUT.print(sentence(verdicts), markup=False)
    OUTPUT.print(f"wrote {output}", markup=False)


def _print_agreements(table: EvaluationTable) -> None:
    from tvm_mnas.paper.stand_ins import agreements

    rows = [
        {"name": a.name, "spearman": f"{a.spearman:.3f}", "error": f"{a.error_percent:.0f}"}
        for a in agreements(table, seed=0)
    ]
    columns = (
        Column("latency told", "name", number=False),
        Column("rank correlation with tuned", "spearman"),
        Column("off by % in the mean", "error"),
    )
    title = f"{table.name}: {len(table.entries)} networks of the space {table.manifest.space}"
    print_table(title, columns, rows, as_json=False)


def _print_effects(name: str, effects: list[dict[str, object]]) -> None:
    changes = dict.fromkeys(str(effect["change"]) for effect in effects)
    names = dict.fromkeys(str(effect["name"]) for effect in effects)
    rows = [
        {"change": change}
        | {
            str(e["name"]): f"{e['percent']:+.1f} ± {e['error_percent']:.1f}"
            for e in effects
            if e["change"] == change
        }
        for change in changes
    ]
    columns = (Column("one block's change", "change", number=False), *(Column(n, n) for n in names))
    print_table(f"{name}: longer by, in percent", columns, rows, as_json=False)
