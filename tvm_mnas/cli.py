"""The command line: `tvm-mnas search | report | export | train | zoo | tune | bench | data | device | space | ...`.

The only module that ends the process. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted (state saved).
Everything heavy is imported inside a command, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from tvm_mnas import __version__
from tvm_mnas.commands.bench import bench
from tvm_mnas.commands.data import data_app
from tvm_mnas.commands.device import device_app
from tvm_mnas.commands.paper.tables import paper_app
from tvm_mnas.commands.records import records_app
from tvm_mnas.commands.runs.compare import compare
from tvm_mnas.commands.runs.export import export
from tvm_mnas.commands.runs.report import report
from tvm_mnas.commands.runs.search import search
from tvm_mnas.commands.space import space_app
from tvm_mnas.commands.table import table_app
from tvm_mnas.commands.train import train, transfer
from tvm_mnas.commands.tune import tune
from tvm_mnas.commands.zoo import zoo
from tvm_mnas.console import MESSAGES, OUTPUT
from tvm_mnas.errors import (
    INTERRUPTED,
    Interruption,
    TvmMnasError,
    host_fault,
    host_message,
    is_interruption,
)
from tvm_mnas.processes import ensure_home

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search for a network whose measured, auto-scheduled latency on your device is part of the "
    "reward, and get the compiled .so.",
)


def _show_version(value: bool) -> None:
    if value:
        OUTPUT.print(f"tvm-mnas {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for _command in (search, report, compare, export, train, transfer, zoo, tune, bench):
    app.command()(_command)
for _name, _group in (
    ("data", data_app),
    ("device", device_app),
    ("space", space_app),
    ("table", table_app),
    ("records", records_app),
    ("paper", paper_app),
):
    app.add_typer(_group, name=_name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interruption


def main() -> None:
    """Run the command line; ends the process with 0, 1, 2 or 130."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # What is ignored stays so: the shell's background jobs do not hear Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    ensure_home()
    try:
        _run()
    except Exception as error:
        if is_interruption(error):
            _fail("interrupted; what was finished is saved", INTERRUPTED)
        fault = host_fault(error)
        if fault is not None:
            _fail(host_message(fault), 1)
        raise


def _run() -> None:
    command = get_command(app)
    try:
        code = command(standalone_mode=False)
        if code == INTERRUPTED:
            # What typer makes of an interruption.
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except TyperException as error:
        # Without arguments this is the help text itself, which typer has printed then.
        message = " ".join(error.format_message().split()).rstrip(".")
        if message:
            _fail(
                f"{message}; `tvm-mnas --help` and `tvm-mnas COMMAND --help` show what is taken", 2
            )
        sys.exit(2)
    except TvmMnasError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; what was finished is saved", INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str, code: int) -> None:
    MESSAGES.print(f"tvm-mnas: error: {' '.join(message.split())}", markup=False)
    sys.exit(code)
