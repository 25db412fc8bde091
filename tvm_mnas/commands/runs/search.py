"""`tvm-mnas search`: start a search or go on with one, watch it, and show what it found."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas import __version__
from tvm_mnas.commands.options import ALLOW_UNTUNED, DEFAULTS, AsJson, RecipeValues
from tvm_mnas.commands.runs.report import print_pareto_front
from tvm_mnas.config import SearchConfig, parse_untuned_share, read_settings
from tvm_mnas.console import (
    MESSAGES,
    OUTPUT,
    Column,
    SearchDisplay,
    format_ms,
    print_json,
    print_table,
)
from tvm_mnas.errors import (
    ConfigError,
    HostError,
    InterruptedRunError,
    RecordsError,
    TvmMnasError,
    host_fault,
    host_message,
    is_interruption,
)
from tvm_mnas.plugins import DEVICE_EVALUATOR

if TYPE_CHECKING:
    from tvm_mnas.search.result import SearchResult
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.training.recipe import Recipe
    from tvm_mnas.workflows.search import CheckedInputs

_TOLD_EVERY_S = 10.0
"""So often at least a search says how far it is, where nobody sees a bar move."""
_MAY_CHANGE = {"trials", "jobs", "executor", "records"}
"""What a resumed run may have other than before: how long it is, and what does not change its results."""


def search(
    task: Annotated[
        str | None,
        typer.Option(help="classification, or detection: the space's networks as backbones."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="A space by name, a TOML file, or package.module:object.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="A device profile by name, or a file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="embedded, imagefolder:PATH, idx:PATH, csv:FILE, shards:PATH, hub:NAME, cache:PATH, or module:object; "
            "with boxes: drawn, coco:PATH, voc:PATH, yolo:PATH."
        ),
    ] = None,
    max_bad_images: Annotated[
        int | None, typer.Option(help="Damaged images of a split to pass over.")
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
        str | None,
        typer.Option(
            help="ppo, ppo-paper, random, evolution, tpe, nsga2, or package.module:object."
        ),
    ] = None,
    trainer: Annotated[str | None, typer.Option(help="proxy, or package.module:object.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="local, inline, ray[:ADDRESS], or package.module:object.")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="device: train, compile, measure. table:NAME: look it up. Or package.module:object."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to sample in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Candidates per controller update.")] = None,
    lag: Annotated[
        int | None,
        typer.Option(help="Batches in flight beside the first; 0: each ends before the next."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of every random choice.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="How candidates are trained: a recipe by name, or a TOML file."),
    ] = None,
    train_steps: Annotated[int | None, typer.Option(help="Steps of the short training.")] = None,
    train_epochs: Annotated[
        float | None, typer.Option(help="Its epochs, in place of steps.")
    ] = None,
    train_batch: Annotated[int | None, typer.Option(help="Images of a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The rate after the warm-up.")] = None,
    set_values: RecipeValues = None,
    train_device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda (every accelerator) or cuda:N.")
    ] = None,
    replicates: Annotated[
        int | None,
        typer.Option(help="Train every k-th candidate twice, to tell the noise; 0: none."),
    ] = None,
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
    storage: Annotated[
        str | None, typer.Option(help="A database that keeps the study, by its URL.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="The study's name there.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with any of these settings; flags win.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The new run's directory.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run, after anything.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Measure a little, and tell what the search would take."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search; with no options a small one, on this machine's CPU with embedded data, in minutes."""
    from tvm_mnas.search.reward import parse_latency

    given: dict[str, Any] = {
        "task": task,
        "space": space,
        "device": device,
        "data": data,
        "max_bad_images": max_bad_images,
        "target_latency_ms": None if target_latency is None else parse_latency(target_latency),
        "alpha": alpha,
        "beta": beta,
        "algorithm": algorithm,
        "trainer": trainer,
        "executor": executor,
        "evaluator": evaluator,
        "trials": trials,
        "batch": batch,
        "lag": lag,
        "seed": seed,
        "recipe": recipe,
        "train_steps": train_steps,
        "train_epochs": train_epochs,
        "train_batch": train_batch,
        "learning_rate": learning_rate,
        "train_device": train_device,
        "replicates": replicates,
        "schedules_per_kernel": schedules_per_kernel,
        "max_untuned_share": None if allow_untuned is None else parse_untuned_share(allow_untuned),
        "finalists": finalists,
        "final_steps": final_steps,
        "jobs": jobs,
        "records": records,
        "storage": storage,
        "study": study,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    if hard:
        if alpha is not None or beta is not None:
            raise ConfigError("--hard sets alpha and beta itself; leave out --alpha and --beta")
        flags |= {"alpha": 0.0, "beta": -1.0}
    if plan:
        if resume is not None or run is not None:
            raise ConfigError(
                "a plan is of a search that has not begun; leave out --resume and --run"
            )
        _plan(flags, config, set_values or [], as_json=as_json)
    elif resume is None:
        _search(_start_run(flags, config, run, set_values or []), {}, as_json=as_json)
    else:
        if set_values:
            flags["set"] = set_values
        _search(_resume_run(resume, flags, config, run), flags, as_json=as_json)


def _start_run(
    flags: dict[str, Any], config: Path | None, run: Path | None, changes: list[str]
) -> RunDirectory:
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.workflows.search import default_run

    resolved, chosen, inputs = _resolve(flags, config, changes)
    if run is None:
        run = default_run(inputs.space.name)
    return RunDirectory.create(run, resolved, chosen)


def _resolve(
    flags: dict[str, Any], config: Path | None, changes: list[str]
) -> tuple[SearchConfig, Recipe, CheckedInputs]:
    """Return what is asked for, after a look whether everything that it names is there."""
    from tvm_mnas.evaluation.trainers import recipe_of
    from tvm_mnas.training.recipe import parse_changes
    from tvm_mnas.workflows.search import check_inputs, table_settings

    settings = table_settings((read_settings(config) if config is not None else {}) | flags)
    resolved = SearchConfig.from_mapping(
        settings, source=str(config) if config is not None else "command line"
    ).located(Path.cwd())
    named = settings.get("space", DEFAULTS.space) != DEFAULTS.space
    if named and "target_latency_ms" not in settings:
        raise ConfigError(
            f"a search in the space {resolved.space!r} needs its target latency, and there is none; "
            f"add, for example, --target-latency 80ms"
        )
    chosen = recipe_of(resolved, parse_changes(changes))
    inputs = check_inputs(resolved)
    for note in inputs.notes:
        MESSAGES.print(note, markup=False)
    return resolved, chosen, inputs


def _plan(flags: dict[str, Any], config: Path | None, changes: list[str], *, as_json: bool) -> None:
    from tvm_mnas.report.text import plan_lines, plan_rows
    from tvm_mnas.workflows.plan import plan_search

    resolved, recipe, inputs = _resolve(flags, config, changes)
    with SearchDisplay() as display:
        plan = plan_search(resolved, recipe, inputs.space, observer=display)
    if as_json:
        print_json(plan.to_json())
        return
    columns = (Column("what", "what", number=False), Column("how much", "how_much"))
    title = f"{resolved.trials} trials of {inputs.space.name} on {resolved.device}, recipe {resolved.recipe}"
    print_table(title, columns, plan_rows(plan), as_json=False)
    for line in plan_lines(plan):
        OUTPUT.print(line, markup=False)


def _resume_run(
    path: Path, flags: dict[str, Any], config: Path | None, run: Path | None
) -> RunDirectory:
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.workflows.search import check_inputs

    if config is not None or run is not None or set(flags) - _MAY_CHANGE:
        raise ConfigError(
            "a resumed run keeps its settings; beside --resume only --trials, --jobs, --executor, --records and "
            "--json are taken; leave out the others, or start a new run"
        )
    directory = RunDirectory.open(path)
    config_now = directory.config
    if "records" in flags:
        flags["records"] = os.path.abspath(flags["records"])
        config_now = replace(config_now, records=flags["records"])
    if "executor" in flags:
        config_now = replace(config_now, executor=flags["executor"]).located(Path.cwd())
        flags["executor"] = config_now.executor
    check_inputs(config_now)
    if "records" in flags:
        try:
            # The place is chosen by hand, so that an empty one is no mistake.
            os.makedirs(flags["records"], exist_ok=True)
        except OSError as error:
            raise RecordsError(
                f"cannot keep tuning records in {flags['records']}: {error.strerror}; name another place (--records)"
            ) from error
    return directory


def _search(directory: RunDirectory, changes: dict[str, Any], *, as_json: bool) -> None:
    import optuna

    from tvm_mnas.report.html import write_report
    from tvm_mnas.search.session import Session

    # The command's own lines say what Optuna would; a program that uses the library decides for itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with directory.lock(), _resumable(directory):
        if changes:
            directory = directory.changed(changes)
        session = Session.open(directory)
        config = directory.config
        place = config.device if config.evaluator == DEVICE_EVALUATOR else config.evaluator
        MESSAGES.print(
            f"tvm-mnas {__version__}: {config.algorithm} over {session.space.name} "
            f"({session.space.size:,} architectures), {config.trials} trials, "
            f"target {format_ms(config.target_latency_ms)} on {place}; run {directory.path}",
            markup=False,
        )
        with SearchDisplay(config.trials, session.finished, every_s=_TOLD_EVERY_S) as display:
            result = session.run(display)
        write_report(directory, result.records, best=result.best)
    _show_result(directory, result, as_json=as_json)


@contextlib.contextmanager
def _resumable(directory: RunDirectory) -> Iterator[None]:
    """Say how the search goes on where it is interrupted, or this machine fails."""
    command = f"`tvm-mnas search --resume {shlex.quote(str(directory.path))}` goes on with it"
    try:
        yield
    except BaseException as error:
        if is_interruption(error):
            raise InterruptedRunError(
                f"interrupted, and what was finished is saved; {command}"
            ) from error
        if isinstance(error, HostError):
            raise HostError(f"{error}: {command}") from error
        fault = None if isinstance(error, TvmMnasError) else host_fault(error)
        if fault is None:
            raise
        raise HostError(f"{host_message(fault)}: {command}") from error


def _show_result(directory: RunDirectory, result: SearchResult, *, as_json: bool) -> None:
    from tvm_mnas.report.rows import SCHEMA_VERSION, pareto_rows
    from tvm_mnas.report.text import search_lines

    rows = pareto_rows(result.records)
    if as_json:
        pareto = [asdict(row) for row in rows]
        print_json(
            {
                "schema": SCHEMA_VERSION,
                "run": str(directory.path),
                "pareto": pareto,
                **result.summary(),
            }
        )
        return
    print_pareto_front(rows)
    for line in search_lines(result):
        OUTPUT.print(line, markup=False)
