"""`tvm-mnas export`: one trial's network, trained longer, with everything that it takes to ship it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, SearchDisplay, print_json


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    trial: Annotated[
        int | None, typer.Option(help="A trial's number; without it, the highest reward.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new directory for the files.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Training steps; without it, the run's final_steps.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a trial's network longer and write net.so, weights, net.onnx, records and manifest."""
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.search.session import Session

    directory = RunDirectory.open(run)
    with directory.lock():
        session = Session.open(directory)
        record = session.pick(trial)
        target = output if output is not None else run / f"trial-{record.number}"
        with SearchDisplay() as display:
            manifest = session.export(record, target, steps=steps, observer=display)
    if as_json:
        print_json(manifest.to_json())
    else:
        OUTPUT.print(f"{target}/net.so", markup=False)
