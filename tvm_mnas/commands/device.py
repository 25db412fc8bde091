"""`tvm-mnas device`: what a device needs before it can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, print_json

device_app = typer.Typer(no_args_is_help=True, help="Prepare a device: bundle its server.")


@device_app.command()
def bundle(
    arch: Annotated[str, typer.Option(help="The device's architecture: aarch64 or x86_64.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive to write, a .tgz.")],
    cache: Annotated[
        Path | None, typer.Option(help="Where wheels are kept, ~/.cache/tvm-mnas if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a device server that needs nothing on the device: unpack it there and start ./run."""
    from tvm_mnas.devices.bundle import build_bundle

    manifest = build_bundle(arch, output, cache=cache)
    if as_json:
        print_json({"file": str(output), "bytes": output.stat().st_size, **manifest})
    else:
        OUTPUT.print(str(output), markup=False)
