"""`tvm-mnas table`: evaluate every architecture of a small space once, and search on that in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import DEFAULTS, AsJson, Device, Records, Trials
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, print_json, print_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.evaluation.tables.manifest import TableManifest

table_app = typer.Typer(
    no_args_is_help=True,
    help="Evaluate every architecture of a small space once; searches on the table take seconds.",
)

_TOLD_EVERY_S = 60.0


@table_app.command("build")
def build(
    out: Annotated[Path, typer.Option("-o", "--out", help="The table's directory.")],
    space: Annotated[
        str, typer.Option(help="A space by name or TOML file, of 20,000 architectures at most.")
    ] = "fashion-mini",
    data: Annotated[str, typer.Option(help="What --data of a search takes.")] = DEFAULTS.data,
    recipe: Annotated[str, typer.Option(help="How they are trained.")] = DEFAULTS.recipe,
    steps: Annotated[
        str, typer.Option(help="Steps of the trainings, with commas between; none: train nothing.")
    ] = "60,240,960",
    architectures: Annotated[
        int, typer.Option(min=0, help="Take so many of a large space; 0: all.")
    ] = 0,
    device: Device = DEFAULTS.device,
    schedules_per_kernel: Trials = 32,
    records: Records = DEFAULTS.records,
    executor: Annotated[
        str, typer.Option(help="local, inline, ray[:ADDRESS], or package.module:object.")
    ] = DEFAULTS.executor,
    train_device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (every accelerator) or cuda:N.")
    ] = DEFAULTS.train_device,
    jobs: Annotated[int, typer.Option(min=0, help="Trainings side by side; 0: one a core.")] = 0,
    seed: Annotated[int, typer.Option(help="The seed of held-out images and trainings.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train every architecture with two seeds and each number of steps, and time it; hours, and resumable.

    Type the same command again after an interruption: it goes on.
    """
    from tvm_mnas.evaluation.executors.protocol import ExecutorRequest
    from tvm_mnas.plugins import EXECUTORS
    from tvm_mnas.workflows.table import TablePlan, build_table

    plan = TablePlan(
        space=space,
        data=data,
        recipe=recipe,
        steps=_parse_steps(steps),
        device=device,
        schedules_per_kernel=schedules_per_kernel,
        seed=seed,
        architectures=architectures,
    )
    with SearchDisplay(every_s=_TOLD_EVERY_S) as display:
        request = ExecutorRequest(jobs=jobs, train_device=train_device, on_warning=display.note)
        table = build_table(
            out,
            plan,
            records=Path(records),
            executor=EXECUTORS.load(executor)(request),
            observer=display,
        )
    _show(table.manifest, as_json=as_json)


@table_app.command("show")
def show(
    table: Annotated[str, typer.Argument(help="A table that ships, or a table's directory.")],
    as_json: AsJson = False,
) -> None:
    """Say what a table is of, and how its spread compares with its noise; its checksums are checked."""
    from tvm_mnas.evaluation.tables.files import find_table, read_table

    _show(read_table(find_table(table)).manifest, as_json=as_json)


def _show(manifest: TableManifest, *, as_json: bool) -> None:
    if as_json:
        print_json(manifest.to_json())
        return
    OUTPUT.print(
        f"{manifest.name}: {manifest.architectures:,} architectures of the space {manifest.space}, trained on "
        f"{manifest.data} by the recipe {manifest.recipe}, timed on {manifest.device.device_key} ({manifest.cpu}) "
        f"from {manifest.timed[0]} to {manifest.timed[1]}",
        markup=False,
    )
    rows = [
        {
            "what": f"accuracy after {steps} steps (%)",
            "mean": f"{one.mean:.2f}",
            "spread": f"{one.spread:.2f}",
            "noise": f"{one.noise:.2f}",
            "ratio": f"{one.ratio:.1f}",
            "between": f"{one.between:.2f}",
        }
        for steps, one in manifest.accuracy.items()
    ] + [
        {
            "what": f"latency, {kind} (% of its mean)",
            "mean": f"{one.mean:.0f}",
            "spread": f"{one.spread:.2f}",
            "noise": f"{one.noise:.2f}",
            "ratio": f"{one.ratio:.1f}",
            "between": f"{one.between:.2f}",
        }
        for kind, one in manifest.latency.items()
    ]
    columns = (
        Column("what", "what", number=False),
        Column("mean", "mean"),
        Column("spread", "spread"),
        Column("noise", "noise"),
        Column("spread / noise", "ratio"),
        Column("rank correlation of two", "between"),
    )
    print_table(
        "Standard deviations between architectures, and of one measurement",
        columns,
        rows,
        as_json=False,
    )


def _parse_steps(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--steps takes whole numbers with commas between, not {text!r}; for example --steps 60,240,960"
        ) from error
