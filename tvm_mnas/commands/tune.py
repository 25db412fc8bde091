"""`tvm-mnas tune`: the kernels of a network, or of a whole space, tuned ahead of a search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tvm_mnas.commands.options import (
    DEFAULTS,
    AsJson,
    InputShape,
    Records,
    parse_shape,
    toolchain_options,
)
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, print_json, print_table

SHOWN = 8
"""How many kernels the table shows; `--json` has them all."""


def tune(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A key of the zoo, a notation, an .onnx or .pt2 file, or RUN:TRIAL; all but files may be scaled by "
            "@WIDTH or @WIDTH,SIZE, as in mnasnet-b1@0.75,192."
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Instead, every kernel of this space (a name or TOML file).")
    ] = None,
    device: Annotated[str, typer.Option(help="A device profile by name, or a file.")] = "local",
    schedules_per_kernel: Annotated[
        int, typer.Option(min=1, help="Schedules that a kernel gets, with those it has.")
    ] = 32,
    input_shape: InputShape = None,
    records: Records = DEFAULTS.records,
    seed: Annotated[int, typer.Option(help="The seed of tuning, and of a space's networks.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Tune the kernels that lack schedules; an interruption keeps what was measured."""
    from tvm_mnas.report.text import forecast_line, tune_line
    from tvm_mnas.workflows.tune import tune_model

    with SearchDisplay() as display:
        result = tune_model(
            model,
            toolchain_options(
                records=records,
                schedules_per_kernel=schedules_per_kernel,
                seed=seed,
            ),
            space=space,
            device=device,
            observer=display,
            input_shape=parse_shape(input_shape),
            on_forecast=lambda forecast: display.note(forecast_line(forecast)),
        )
    if as_json:
        print_json(result.to_json())
        return
    if result.forecast.lacking:
        columns = (
            Column("kernel", "kernel", number=False, wraps=True),
            Column("times", "times"),
            Column("us each", "best_us"),
            Column("share %", "share_percent"),
            Column("schedules", "schedules"),
            Column("measured now", "measured"),
        )
        title = f"The costliest of {len(result.kernels)} kernels"
        print_table(
            title, columns, [asdict(kernel) for kernel in result.kernels[:SHOWN]], as_json=False
        )
    OUTPUT.print(tune_line(result), markup=False)
