"""`tvm-mnas bench`: one network end to end, and kernel by kernel; and how the paper's commands time several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import (
    ALLOW_UNTUNED,
    DEFAULTS,
    AsJson,
    InputShape,
    Records,
    parse_shape,
    toolchain_options,
)
from tvm_mnas.config import parse_untuned_share
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, print_json, print_table

if TYPE_CHECKING:
    from tvm_mnas.evaluation.toolchain import ToolchainOptions
    from tvm_mnas.workflows.compare import ModelTiming
    from tvm_mnas.workflows.model_ref import ModelRef


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="A key of the zoo, a notation, an .onnx or .pt2 file, or RUN:TRIAL; all but files may be scaled by "
            "@WIDTH or @WIDTH,SIZE, as in mnasnet-b1@0.75,192."
        ),
    ],
    device: Annotated[str, typer.Option(help="A device profile by name, or a file.")] = "local",
    schedules_per_kernel: Annotated[
        int, typer.Option(help="Schedules to measure for a kernel without records.")
    ] = 32,
    allow_untuned: Annotated[str, typer.Option(help=ALLOW_UNTUNED, metavar="PERCENT")] = "0%",
    input_shape: InputShape = None,
    records: Records = DEFAULTS.records,
    seed: Annotated[int, typer.Option(help="The seed of weights and tuning.")] = 0,
    untuned: Annotated[
        bool, typer.Option("--untuned", help="Also time each kernel as TVM builds it by itself.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tune what has no records, then time a network end to end and show its kernels."""
    from tvm_mnas.report.text import bench_line, peak_line
    from tvm_mnas.workflows.bench import bench_model

    max_untuned_share = parse_untuned_share(allow_untuned)
    with SearchDisplay() as display:
        result = bench_model(
            model,
            toolchain_options(
                records=records,
                schedules_per_kernel=schedules_per_kernel,
                seed=seed,
                max_untuned_share=max_untuned_share,
            ),
            device=device,
            observer=display,
            input_shape=parse_shape(input_shape),
            untuned=untuned,
        )
    if as_json:
        print_json(result.to_json())
        return
    columns = [
        Column("kernel", "kernel", number=False, wraps=True),
        Column("times", "times"),
        Column("us each", "best_us"),
        Column("share %", "share_percent"),
        Column("GFLOP/s", "gflops"),
        Column("limit %", "limit_percent"),
        Column("bound", "bound", number=False),
        Column("schedules", "schedules"),
    ]
    if untuned:
        columns.append(Column("speed-up", "speed_up"))
    rows = [
        {
            **timing.to_json(),
            "kernel": timing.kernel if timing.tuned else f"UNTUNED {timing.kernel}",
        }
        for timing in result.kernels
    ]
    print_table("Kernels, from their records", columns, rows, as_json=False)
    OUTPUT.print(peak_line(result), markup=False)
    OUTPUT.print(bench_line(result), markup=False)


def time_networks(
    models: Sequence[ModelRef],
    options: ToolchainOptions,
    *,
    device: str,
    rounds: int,
) -> list[ModelTiming]:
    """Return what `compare.compare_models` does, and raise what it raises; progress is shown meanwhile."""
    from tvm_mnas.workflows.compare import compare_models

    with SearchDisplay() as display:
        return compare_models(
            models,
            options,
            device=device,
            rounds=rounds,
            observer=display,
        )


def print_failures(failures: Sequence[tuple[str, str | None]]) -> None:
    """Print a line for each (network, reason) with a reason why it has no latency."""
    for name, failure in failures:
        if failure is not None:
            OUTPUT.print(f"{name} has no latency: {failure}", markup=False)
