"""`tvm-mnas paper figure2|figure4|figure5|figure6`: the paper's figures as pictures and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.bench import print_failures, time_networks
from tvm_mnas.commands.options import (
    DEFAULTS,
    AsJson,
    Device,
    Records,
    Rounds,
    Seed,
    Trials,
    toolchain_options,
)
from tvm_mnas.console import (
    OUTPUT,
    Column,
    SearchDisplay,
    format_count,
    print_json,
    print_table,
)
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvm_mnas.evaluation.toolchain import ToolchainOptions
    from tvm_mnas.paper.figures import ScaledPoint, ScaledRow
    from tvm_mnas.search.run import TrialRecord

_Output = Annotated[Path, typer.Option("--output", "-o", help="The PNG file to write.")]


def figure2(output: _Output = Path("figure2.png"), as_json: AsJson = False) -> None:
    """Equation 2 at an accuracy of 0.5 and a target of 80 ms: the hard and the soft constraint."""
    check_output(output)
    from tvm_mnas.paper.figures import objective_figure, objective_rows

    rows = objective_rows()
    write_figure(output, objective_figure())
    if as_json:
        print_json({"objectives": rows, "file": str(output)})
        return
    columns = [
        Column("latency ms", "latency_ms"),
        Column("alpha 0, beta -1", "hard"),
        Column("alpha = beta = -0.07", "soft"),
    ]
    print_table("Objective of equation 2", columns, rows, as_json=False)
    OUTPUT.print(f"wrote {output}", markup=False)


def figure4(
    output: _Output = Path("figure4.png"),
    device: Device = "local",
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """MnasNet and MobileNetV2 scaled by depth multiplier and by input size: counts and latencies."""
    check_output(output)
    from tvm_mnas.paper.figures import figure4_points, scaling_figure

    options = toolchain_options(
        records=records, schedules_per_kernel=schedules_per_kernel, seed=seed
    )
    rows, line = _time_scaled(figure4_points(), options, device=device, rounds=rounds)
    write_figure(output, scaling_figure(rows, device))
    if as_json:
        print_json({"networks": [row.to_json() for row in rows], "file": str(output)})
        return
    _print_scaled("Figure 4", rows, line)
    OUTPUT.print(f"wrote {output}", markup=False)


def figure5(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: _Output = Path("figure5.png"),
    as_json: AsJson = False,
) -> None:
    """Finished searches: their models with the Pareto curve, and the histogram of their latencies."""
    check_output(output)
    from tvm_mnas.paper.figures import search_row, searches_figure
    from tvm_mnas.search.run import RunDirectory

    directories = [RunDirectory.open(run) for run in runs]
    shown = [
        (run.resolve().name, directory.finished_trials(), directory.reward)
        for run, directory in zip(runs, directories, strict=True)
    ]
    rows = [asdict(search_row(name, records, reward)) for name, records, reward in shown]
    write_figure(output, searches_figure(shown))
    if as_json:
        print_json({"runs": rows, "file": str(output)})
        return
    columns = [
        Column("run", "run", number=False),
        Column("alpha", "alpha"),
        Column("beta", "beta"),
        Column("target ms", "target_latency_ms"),
        Column("models", "measured"),
        Column("within 10% of it", "near_target"),
        Column("Pareto front", "pareto"),
    ]
    print_table("Figure 5", columns, rows, as_json=False)
    if any(row["emulated"] for row in rows):
        OUTPUT.print("EMULATED times are not latencies.", markup=False)
    OUTPUT.print(f"wrote {output}", markup=False)


def figure6(
    output: _Output = Path("figure6.png"),
    run: Annotated[
        Path | None, typer.Option(help="The directory of a finished new search.")
    ] = None,
    scale: Annotated[
        Path | None,
        typer.Option(
            help="Scale the winner of this finished search in place of the paper's networks, and train all as it did."
        ),
    ] = None,
    device: Device = "local",
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Scaling to (0.5, 160) and (0.5, 192), or a winner of your own, against a new search's Pareto front."""
    check_output(output)
    if scale is not None:
        if run is None:
            raise ConfigError(
                "a scaled winner is compared with a new search; add --run, and --scale names the other"
            )
        _figure6_here(scale, run, output, as_json=as_json)
        return
    from tvm_mnas.paper.figures import figure6_points, scale_or_search_figure
    from tvm_mnas.report.rows import pareto_rows
    from tvm_mnas.report.trials import pareto_records
    from tvm_mnas.search.run import RunDirectory

    trials = [] if run is None else RunDirectory.open(run).finished_trials()
    _check_device(trials, device)
    options = toolchain_options(
        records=records, schedules_per_kernel=schedules_per_kernel, seed=seed
    )
    rows, line = _time_scaled(figure6_points(), options, device=device, rounds=rounds)
    write_figure(output, scale_or_search_figure(rows, device, pareto_records(trials)))
    if as_json:
        front = [asdict(row) for row in pareto_rows(trials)]
        print_json(
            {"networks": [row.to_json() for row in rows], "new_search": front, "file": str(output)}
        )
        return
    _print_scaled("Figure 6", rows, line)
    for record in pareto_records(trials):
        accuracy, latency_ms = record.evaluation.objectives or (0.0, 0.0)
        OUTPUT.print(
            f"new search, trial {record.number}: {latency_ms:.4g} ms, "
            f"proxy accuracy {100 * accuracy:.1f}% (not ImageNet's)",
            markup=False,
        )
    OUTPUT.print(f"wrote {output}", markup=False)


def _figure6_here(old: Path, new: Path, output: Path, *, as_json: bool) -> None:
    """Draw the winner of the search `old`, scaled, beside the front of the search `new`."""
    from tvm_mnas.paper.scaled_winner import scale_or_search, scaled_winner_figure
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.search.session import Session

    first, second = RunDirectory.open(old), RunDirectory.open(new)
    with first.lock(), SearchDisplay() as display:
        networks = scale_or_search(Session.open(first), Session.open(second), observer=display)
    write_figure(output, scaled_winner_figure(networks, target_ms=second.config.target_latency_ms))
    if as_json:
        print_json({"networks": [one.to_json() for one in networks], "file": str(output)})
        return
    columns = [
        Column("network", "label", number=False),
        Column("accuracy %", "accuracy"),
        Column("ms", "latency_ms"),
        Column("notation", "notation", number=False, wraps=True),
    ]
    rows = [
        {
            "label": one.label,
            "accuracy": f"{100 * one.accuracy.top1:.2f} ± {100 * one.accuracy.standard_error:.2f}",
            "latency_ms": one.latency.latency_ms,
            "notation": one.notation,
        }
        for one in sorted(networks, key=lambda one: one.latency.latency_ms)
    ]
    print_table("Figure 6, trained and timed here", columns, rows, as_json=False)
    if any(one.latency.emulated for one in networks):
        OUTPUT.print("EMULATED times are not latencies.", markup=False)
    OUTPUT.print(f"wrote {output}", markup=False)


def check_output(output: Path) -> None:
    """Find out before anything is measured that the picture could not be written."""
    if output.suffix != ".png":
        raise ConfigError(
            f"a picture must be a .png file, not {output}; type, for example, -o figure.png"
        )
    if not output.parent.is_dir():
        raise ConfigError(
            f"a picture is written into a folder that is there, and {output.parent} is not; "
            f"type mkdir -p {output.parent}"
        )


def _check_device(trials: Sequence[TrialRecord], device: str) -> None:
    """Latencies of two devices on one axis would compare the devices."""
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.report.trials import device_keys

    key = load_profile(device).key
    others = [other for other in device_keys(trials) if other != key]
    if others:
        raise ConfigError(
            f"figure 6 compares latencies of one device, and the run has some of {others[0]} beside {key}; "
            f"type --device {others[0]}"
        )


def write_figure(output: Path, figure: Figure) -> None:
    """Write `figure` to the PNG file `output`. Raises RunError if it cannot be written."""
    from tvm_mnas.report.drawing import render_png, write_png

    write_png(output, render_png(figure))


def _time_scaled(
    points: Sequence[ScaledPoint], options: ToolchainOptions, *, device: str, rounds: int
) -> tuple[list[ScaledRow], str]:
    """Return the rows of `points`, measured on `device`, and the line that says how."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.paper.figures import scaled_rows
    from tvm_mnas.paper.tables import provenance
    from tvm_mnas.workflows.model_ref import resolve_architecture, resolve_model

    models = [resolve_model(point.model) for point in points]
    costs = [count_cost(resolve_architecture(point.model)) for point in points]
    timed = time_networks(models, options, device=device, rounds=rounds)
    return scaled_rows(points, costs, timed), provenance(timed)


def _print_scaled(title: str, rows: Sequence[ScaledRow], line: str) -> None:
    from tvm_mnas.paper.figures import TOP1_SOURCE

    emulated = any(row.emulated for row in rows)
    columns = [
        Column("network", "network", number=False),
        Column("multiplier", "multiplier"),
        Column("input", "input_size"),
        Column("params", "parameters"),
        Column("mult-adds", "mult_adds"),
        Column("EMULATED ms" if emulated else "ms", "latency_ms"),
        Column("published top-1 %", "published_top1_percent"),
    ]
    counts = ("parameters", "mult_adds")
    shown = [
        row.to_json() | {name: format_count(getattr(row, name)) for name in counts} for row in rows
    ]
    print_table(title, columns, shown, as_json=False)
    OUTPUT.print(line, markup=False)
    print_failures([(row.model, row.measurement.failure) for row in rows])
    OUTPUT.print(f"Published top-1: {TOP1_SOURCE}; nothing was trained here.", markup=False)
