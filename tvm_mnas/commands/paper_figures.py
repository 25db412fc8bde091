"""`tvm-mnas paper figure2 | figure4 | figure5 | figure6`: the paper's figures, from our own searches and devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import DEFAULTS, AsJson, Device, Records, Seed, Trials
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, format_count, print_json, print_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.search.lineup import Timed

NETWORKS = ("mobilenet-v2", "mnasnet")
MULTIPLIERS = (0.35, 0.5, 0.75, 1.0, 1.4)
SIZES = (96, 128, 160, 192, 224)
SMALL = ("0.5,160", "0.5,192")
"""What figure 6 scales MobileNetV2 and MnasNet to."""
NEAR_TARGET = 0.1

_Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="The .png file to write the picture to.")
]


def figure2(output: _Output = None, as_json: AsJson = False) -> None:
    """Equation 2 at the paper's two pairs of exponents."""
    from tvm_mnas.report.paper_figures import objective_figure, objective_rows, objectives

    if output is not None:
        _write(objective_figure(), output)
    columns = (Column("latency ms", "latency_ms"), *(Column(name, name) for name in objectives()))
    print_table("Objective at accuracy 0.5, T = 80 ms", columns, objective_rows(), as_json=as_json)


def figure4(
    device: Device = "local",
    output: _Output = None,
    trials_per_kernel: Trials = 32,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """MobileNetV2 and MnasNet at depth multipliers 0.35 to 1.4 and inputs of 96 to 224 pixels."""
    from tvm_mnas.report.comparison import provenance
    from tvm_mnas.report.paper_figures import scaling_figure

    _check_output(output)
    scales = [f"{multiplier:g},224" for multiplier in MULTIPLIERS]
    scales += [f"1,{size}" for size in SIZES if size != 224]
    names = [f"{network}@{scale}" for network in NETWORKS for scale in scales]
    rows, timed = _scaled(names, device, records, trials_per_kernel, seed)
    if output is not None:
        emulated = any(entry.emulated for entry in timed)
        _write(scaling_figure(rows, device=device, emulated=emulated), output)
    if as_json:
        print_json(rows)
        return
    _print_scaled("Figure 4: scaled networks", rows, timed)
    OUTPUT.print(provenance(timed), markup=False)


def figure5(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs, such as one with --hard.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A directory for the pictures.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """The sampled networks of searches, their Pareto curves and latency histograms."""
    from tvm_mnas.report.drawing import render_png, write_png
    from tvm_mnas.report.figures import latency_histogram_figure, pareto_figure
    from tvm_mnas.report.tables import measured, pareto_records
    from tvm_mnas.search.run import RunDirectory

    if not output.is_dir():
        raise ConfigError(f"pictures go to a directory that is there, not {output}; make it first")
    rows: list[dict[str, Any]] = []
    for run in runs:
        directory = RunDirectory.open(run)
        records = directory.finished_trials()
        reward = directory.reward
        stem = f"figure5-{run.resolve().name}"
        files = [output / f"{stem}-pareto.png", output / f"{stem}-histogram.png"]
        write_png(files[0], render_png(pareto_figure(records, reward)))
        write_png(files[1], render_png(latency_histogram_figure(records, reward)))
        target_ms = reward.target_latency_ms
        times = [
            record.evaluation.latency.latency_ms
            for record in measured(records)
            if record.evaluation.latency is not None
        ]
        near = sum(abs(time / target_ms - 1) <= NEAR_TARGET for time in times)
        rows.append(
            {
                "run": str(run),
                "alpha": reward.alpha,
                "beta": reward.beta,
                "target_ms": target_ms,
                "candidates": len(times),
                "near_target_percent": 100 * near / len(times) if times else None,
                "front": len(pareto_records(records)),
                "files": [str(file) for file in files],
            }
        )
    columns = (
        Column("run", "run", number=False),
        Column("alpha", "alpha"),
        Column("beta", "beta"),
        Column("target ms", "target_ms"),
        Column("candidates", "candidates"),
        Column(f"within {NEAR_TARGET:.0%} of it, %", "near_target_percent"),
        Column("on the front", "front"),
    )
    print_table("Figure 5: searches", columns, rows, as_json=as_json)
    if not as_json:
        for row in rows:
            for file in row["files"]:
                OUTPUT.print(file, markup=False)


def figure6(
    device: Device = "local",
    run: Annotated[
        Path | None, typer.Option(help="A finished search for such a latency, on this device.")
    ] = None,
    trials_per_kernel: Trials = 32,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Scaling against a new search: MobileNetV2 and MnasNet made small, beside the front of a run."""
    from tvm_mnas.report.comparison import provenance
    from tvm_mnas.report.tables import pareto_rows
    from tvm_mnas.search.run import RunDirectory

    # Read first: a run that is none should not be found out after the measuring.
    front = [] if run is None else pareto_rows(RunDirectory.open(run).finished_trials())
    names = [f"{network}@{scale}" for network in NETWORKS for scale in SMALL]
    rows, timed = _scaled(names, device, records, trials_per_kernel, seed)
    if as_json:
        print_json({"scaled": rows, "search": front})
        return
    _print_scaled("Figure 6: scaled networks", rows, timed)
    OUTPUT.print(provenance(timed), markup=False)
    if front:
        columns = (
            Column("trial", "trial"),
            Column("latency ms", "latency_ms"),
            Column("proxy top-1 %", "accuracy_percent"),
        )
        print_table(f"The front of {run}", columns, front, as_json=False)
        OUTPUT.print(
            "Its accuracies are those of the search's short training, not ImageNet's.", markup=False
        )


def _scaled(
    names: list[str], device: str, records: str, trials_per_kernel: int, seed: int
) -> tuple[list[dict[str, Any]], list[Timed]]:
    """Time these networks; return a row for each, and what was timed."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.search import lineup
    from tvm_mnas.search.model import find_model

    models = [find_model(name) for name in names]
    with SearchDisplay(1) as display:
        timed = lineup.time_models(
            models,
            device=device,
            records=Path(records),
            trials_per_kernel=trials_per_kernel,
            seed=seed,
            observer=display,
        )
    rows = []
    for model, entry in zip(models, timed, strict=True):
        assert model.architecture is not None
        cost = count_cost(model.architecture)
        network, _, scale = model.name.partition("@")
        rows.append(
            {
                "network": network,
                "scale": scale,
                "parameters": cost.parameters,
                "mult_adds": cost.mult_adds,
                "latency_ms": entry.latency_ms,
                "measurement": entry.to_json(),
            }
        )
    return rows, timed


def _print_scaled(title: str, rows: list[dict[str, Any]], timed: list[Timed]) -> None:
    emulated = any(entry.emulated for entry in timed)
    columns = (
        Column("network", "network", number=False),
        Column("width,size", "scale", number=False),
        Column("params", "parameters"),
        Column("mult-adds", "mult_adds"),
        Column("EMULATED ms, no latency" if emulated else "ms", "latency_ms"),
    )
    shown = [
        row | {name: format_count(row[name]) for name in ("parameters", "mult_adds")}
        for row in rows
    ]
    print_table(title, columns, shown, as_json=False)
    for entry in timed:
        if entry.failure is not None:
            OUTPUT.print(f"{entry.name} has no latency: {entry.failure}", markup=False)


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix != ".png":
        raise ConfigError(f"a picture is a .png file, not {output}; type `-o {output}.png`")
    if not output.parent.is_dir():
        raise ConfigError(
            f"a picture goes to a directory that is there, not {output.parent}; make it first"
        )


def _write(figure: Any, output: Path) -> None:
    from tvm_mnas.report.drawing import render_png, write_png

    _check_output(output)
    write_png(output, render_png(figure))
