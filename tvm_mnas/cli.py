"""The command line: `tvm-mnas search | report | export | space | zoo | tune | bench | device | devices | records
| paper`.

The only module that ends the process. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted (state saved).
Everything heavy is imported inside a command, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from tvm_mnas import __version__
from tvm_mnas.commands.bench import bench
from tvm_mnas.commands.device import device_app
from tvm_mnas.commands.devices import devices
from tvm_mnas.commands.options import ALLOW_UNTUNED, DEFAULTS, AsJson
from tvm_mnas.commands.paper import paper_app
from tvm_mnas.commands.records import records_app
from tvm_mnas.commands.space import space
from tvm_mnas.commands.tune import tune
from tvm_mnas.commands.zoo import zoo
from tvm_mnas.config import SearchConfig, parse_untuned_share, read_settings
from tvm_mnas.console import (
    MESSAGES,
    OUTPUT,
    Column,
    SearchDisplay,
    format_count,
    format_ms,
    print_json,
    print_table,
)
from tvm_mnas.errors import ConfigError, RecordsError, TvmMnasError

if TYPE_CHECKING:
    from tvm_mnas.search.result import SearchResult
    from tvm_mnas.search.run import RunDirectory

INTERRUPTED = 130

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


@app.command()
def search(
    space: Annotated[str | None, typer.Option(help="A space by name, or a TOML file.")] = None,
    device: Annotated[str | None, typer.Option(help="A device profile by name, or a file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="embedded, imagefolder:PATH, imagenet:PATH or idx:PATH.")
    ] = None,
    target_latency: Annotated[
        str | None, typer.Option(help="T of the reward, with its unit: 80ms, 900us, 0.08s.")
    ] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="A hard latency constraint: alpha 0, beta -1.")
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="Exponent up to the target.")] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent beyond the target.")] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="ppo, random, evolution, tpe or nsga2.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to sample in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Candidates per controller update.")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of every random choice.")] = None,
    train_steps: Annotated[int | None, typer.Option(help="Steps of the short training.")] = None,
    schedules_per_kernel: Annotated[
        int | None, typer.Option(help="Schedules to measure for a kernel without records.")
    ] = None,
    allow_untuned: Annotated[
        str | None, typer.Option(help=ALLOW_UNTUNED, metavar="PERCENT")
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(help="Best candidates to retrain before naming one.")
    ] = None,
    final_steps: Annotated[int | None, typer.Option(help="Steps of that retraining.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Trainings side by side; 0: one a core.")] = None,
    records: Annotated[
        str | None, typer.Option(help="Where tuning records are kept, from run to run.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with any of these settings; flags win.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The new run's directory.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run, after anything.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search; with no options a small one, on this machine's CPU with embedded data, in minutes."""
    from tvm_mnas.search.reward import parse_latency

    given: dict[str, Any] = {
        "space": space,
        "device": device,
        "data": data,
        "target_latency_ms": None if target_latency is None else parse_latency(target_latency),
        "alpha": alpha,
        "beta": beta,
        "algorithm": algorithm,
        "trials": trials,
        "batch": batch,
        "seed": seed,
        "train_steps": train_steps,
        "schedules_per_kernel": schedules_per_kernel,
        "max_untuned_share": None if allow_untuned is None else parse_untuned_share(allow_untuned),
        "finalists": finalists,
        "final_steps": final_steps,
        "jobs": jobs,
        "records": records,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    if hard:
        if alpha is not None or beta is not None:
            raise ConfigError("--hard sets alpha and beta itself; leave out --alpha and --beta")
        flags |= {"alpha": 0.0, "beta": -1.0}
    if resume is None:
        _search(_start_run(flags, config, run), {}, as_json=as_json)
    else:
        _search(_resume_run(resume, flags, config, run), flags, as_json=as_json)


def _start_run(flags: dict[str, Any], config: Path | None, run: Path | None) -> RunDirectory:
    from tvm_mnas.search.run import RunDirectory

    settings = (read_settings(config) if config is not None else {}) | flags
    resolved = SearchConfig.from_mapping(
        settings, source=str(config) if config is not None else "command line"
    )
    if resolved.space != DEFAULTS.space and "target_latency_ms" not in settings:
        raise ConfigError(
            f"a search in the space {resolved.space!r} needs its target latency, and there is none; "
            f"add, for example, --target-latency 80ms"
        )
    _check_inputs(resolved)
    if run is None:
        moment = datetime.now().strftime("%Y%m%d-%H%M%S")
        run = Path("runs") / f"{moment}-{Path(resolved.space).stem}"
    return RunDirectory.create(run, resolved)


def _resume_run(
    path: Path, flags: dict[str, Any], config: Path | None, run: Path | None
) -> RunDirectory:
    from tvm_mnas.search.run import RunDirectory

    if config is not None or run is not None or set(flags) - {"trials", "jobs"}:
        raise ConfigError(
            "a resumed run keeps its settings; beside --resume only --trials, --jobs and --json are "
            "taken; leave out the others, or start a new run"
        )
    directory = RunDirectory.open(path)
    _check_inputs(directory.config)
    return directory


def _check_inputs(config: SearchConfig) -> None:
    """Find out now, not minutes later, whether space, device, data and the place for records are there."""
    from tvm_mnas.devices.core.profile import read_profile
    from tvm_mnas.devices.core.tracker import TrackerClient
    from tvm_mnas.space.catalogue import find_space
    from tvm_mnas.training.sources import check_data

    find_space(config.space)
    profile = read_profile(config.device)
    check_data(config.data)
    records = Path(config.records)
    if records.exists() and not records.is_dir():
        raise RecordsError(
            f"{records}: tuning records are kept in a directory, and this is a file; "
            f"name another place with --records"
        )
    if profile.tracker is not None:
        with TrackerClient(profile.tracker):
            pass


def _search(directory: RunDirectory, changes: dict[str, Any], *, as_json: bool) -> None:
    import optuna

    from tvm_mnas.report.html import write_report
    from tvm_mnas.search.session import Session

    # The command's own lines say what Optuna would; a program that uses the library decides for itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with directory.lock():
        if changes:
            directory = directory.changed(changes)
        session = Session.open(directory)
        config = directory.config
        MESSAGES.print(
            f"tvm-mnas {__version__}: {config.algorithm} over {session.space.name} "
            f"({session.space.size:,} architectures), {config.trials} trials, "
            f"target {format_ms(config.target_latency_ms)} on {config.device}; run {directory.path}",
            markup=False,
        )
        with SearchDisplay(config.trials, session.finished) as display:
            result = session.run(display)
        write_report(directory, result.records, best=result.best)
    _show_result(directory, result, as_json=as_json)


def _show_result(directory: RunDirectory, result: SearchResult, *, as_json: bool) -> None:
    from tvm_mnas.report.tables import pareto_rows

    rows = pareto_rows(result.records)
    if as_json:
        print_json({"run": str(directory.path), "pareto": rows, **result.summary()})
        return
    _print_pareto(rows)
    for line in result.lines():
        OUTPUT.print(line, markup=False)


def _print_pareto(rows: list[dict[str, Any]]) -> None:
    from tvm_mnas.devices.core.latency import format_percent
    from tvm_mnas.report.tables import EMULATED

    # A column of zeros would say nothing, and in 80 columns there is room for one of the two.
    flagged = any(row["untuned_percent"] for row in rows)
    columns = (
        Column("trial", "trial"),
        Column("id", "id", number=False),
        Column("accuracy", "accuracy"),
        Column("latency", "latency"),
        *([Column("untuned", "untuned")] if flagged else []),
        Column("spread", "spread"),
        Column("reward", "reward"),
        *([] if flagged else [Column("params", "params")]),
        Column("mult-adds", "mult_adds"),
    )
    shown = [
        {
            "trial": row["trial"],
            "id": row["id"],
            "accuracy": f"{row['accuracy_percent']:.2f} %",
            "latency": format_ms(row["latency_ms"]) + (f", {EMULATED}" if row["emulated"] else ""),
            "untuned": f"{format_percent(row['untuned_percent'] or 0.0)} %",
            "spread": f"{row['spread_percent']:.1f} %"
            + (" !" if row["noisy"] or row["warnings"] else ""),
            "reward": f"{row['reward']:.4f}",
            "params": format_count(row["parameters"]),
            "mult_adds": format_count(row["mult_adds"]),
        }
        for row in rows
    ]
    title = "Pareto set (! marks a spread beyond the profile's, or a device that changed)"
    if flagged:
        title += "\nuntuned: the part of the run time in kernels without a tuning record"
    print_table(title, columns, shown, as_json=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: AsJson = False
) -> None:
    """Show a run's Pareto set and write its figures and page to RUN/report."""
    from tvm_mnas.report.html import write_report
    from tvm_mnas.report.tables import forecast_line, forecast_row, pareto_rows
    from tvm_mnas.search.run import RunDirectory

    directory = RunDirectory.open(run)
    records = directory.finished_trials()
    files = write_report(directory, records)
    rows, forecast = pareto_rows(records), forecast_row(records)
    if as_json:
        names = [str(file) for file in files]
        print_json({"run": str(run), "pareto": rows, "forecast": forecast, "files": names})
        return
    _print_pareto(rows)
    if forecast is not None:
        OUTPUT.print(forecast_line(forecast), markup=False)
    for file in files:
        OUTPUT.print(str(file), markup=False)


@app.command()
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
        with SearchDisplay(1) as display:
            manifest = session.export(record, target, steps=steps, observer=display)
    if as_json:
        print_json(manifest)
    else:
        OUTPUT.print(f"{target}/net.so", markup=False)


for _command in (space, zoo, tune, bench, devices):
    app.command()(_command)
app.add_typer(records_app, name="records")
app.add_typer(paper_app, name="paper")
app.add_typer(device_app, name="device")


def main() -> None:
    """Run the command line; ends the process with 0, 1, 2 or 130."""
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
        message = " ".join(error.format_message().split())
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
