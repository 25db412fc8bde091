"""`tvm-mnas train` and `transfer`: networks by a whole recipe, with test accuracies and tuned, measured .so files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import DEFAULTS, AsJson, Device, RecipeValues, Records
from tvm_mnas.config import CLASSIFICATION, DETECTION_TASK, TASKS
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, format_ms, print_json, print_table
from tvm_mnas.errors import ConfigError
from tvm_mnas.report.text import score_text

if TYPE_CHECKING:
    from tvm_mnas.devices.core.latency import Latency
    from tvm_mnas.workflows.training.full import TrainingObserver
    from tvm_mnas.workflows.training.request import TrainingRequest, TrainingResult
    from tvm_mnas.workflows.training.side_by_side import SideBySide
    from tvm_mnas.workflows.training.transfer import Winner


Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write a log for TensorBoard.")]


def train(
    model: Annotated[
        str | None,
        typer.Argument(help="A network of the zoo, a notation, or a trial of a run, RUN:TRIAL."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What --data of a search takes.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The new directory of the training.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="detection: train SSDLite on the model; by itself where that is one."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe by name, or a TOML file; by default imagenet-full, or coco-ssdlite for a detector."
        ),
    ] = None,
    set_values: RecipeValues = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start with (.safetensors); see `finetune`.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of every random choice.")] = 0,
    max_bad_images: Annotated[
        int, typer.Option(min=0, help="Damaged images of a split to pass over.")
    ] = 0,
    train_device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; several accelerators: by torchrun.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: one a core.")] = 0,
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Train the paper's 8 settings of rate, decay and batch norm."),
    ] = False,
    tensorboard: Tensorboard = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the training in this directory.")
    ] = None,
    export: Annotated[
        bool, typer.Option(help="Tune, compile and measure the trained network.")
    ] = True,
    device: Device = DEFAULTS.device,
    records: Records = DEFAULTS.records,
    schedules_per_kernel: Annotated[
        int, typer.Option(min=1, help="Schedules to measure for a kernel without records.")
    ] = 32,
    as_json: AsJson = False,
) -> None:
    """Train a network by a whole recipe; with torchrun, on several accelerators."""
    from tvm_mnas.training.log import check_tensorboard
    from tvm_mnas.workflows.training.request import read_request

    # What needs no torch first: a mistake is told at once.
    if tensorboard:
        check_tensorboard()
    if grid and resume is not None:
        raise ConfigError("a grid goes on when the same command is typed again; leave out --resume")
    request = None
    if resume is None:
        request = _request(
            model, task, data, recipe, set_values or [], seed, max_bad_images, weights
        )
        if out is None:
            raise ConfigError("a training needs its directory, and none is named; add -o DIR")
    elif model is not None or data is not None or out is not None or set_values:
        raise ConfigError(
            "a resumed training keeps its settings; leave out the model, --data, --out and --set beside --resume"
        )
    else:
        out = resume
        read_request(out)
    ending = _Ending(export, device, records, schedules_per_kernel, as_json)
    if grid:
        assert request is not None
        _train_grid(out, request, train_device, workers, tensorboard, ending)
    else:
        _train_one(out, request, train_device, workers, tensorboard, ending)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What becomes of a trained network."""

    export: bool
    device: str
    records: str
    schedules_per_kernel: int
    as_json: bool

    def measure(self, out: Path, observer: TrainingObserver) -> Latency | None:
        """Export the network trained in `out`, if that is wanted, and return its latency."""
        if not self.export:
            return None
        from tvm_mnas.workflows.training.handover import export_training

        return export_training(
            out,
            device=self.device,
            records=self.records,
            schedules_per_kernel=self.schedules_per_kernel,
            observer=observer,
        ).latency

    def line(self, out: Path, result: TrainingResult, latency: Latency | None) -> str:
        """Return what the network trained in `out` is, in a sentence."""
        text = f"{out}: {score_text(result.test)} of {result.test.samples} test images after {result.epochs:.3g} epochs"
        if latency is None:
            return text
        return f"{text}; {format_ms(latency.latency_ms)} on {self.device}: {out}/export/net.so"


def _train_one(
    out: Path,
    request: TrainingRequest | None,
    train_device: str,
    workers: int,
    tensorboard: bool,
    ending: _Ending,
) -> None:
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.training.accelerators import find_devices
    from tvm_mnas.training.processes import join_processes, leave_processes
    from tvm_mnas.workflows.training.full import train as run
    from tvm_mnas.workflows.training.request import create_training

    devices = find_devices(train_device)
    group = join_processes()
    if request is not None and group.leads:
        create_training(out, request)
    group.wait()
    try:
        with SearchDisplay() as display:
            result = run(
                out,
                device=devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)],
                workers=workers or usable_processes(),
                observer=display,
                group=group,
                tensorboard=tensorboard,
            )
            latency = ending.measure(out, display) if group.leads else None
    finally:
        leave_processes(group)
    if not group.leads:
        return
    if ending.as_json:
        print_json(result.to_json() | {"latency_ms": None if latency is None else latency.latency_ms})  # fmt: skip
        return
    OUTPUT.print(ending.line(out, result, latency), markup=False)


def _train_grid(
    out: Path,
    request: TrainingRequest,
    train_device: str,
    workers: int,
    tensorboard: bool,
    ending: _Ending,
) -> None:
    from tvm_mnas.workflows.training.grid import GRID, train_grid

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a grid trains its combinations side by side by itself, one on each accelerator; start it without torchrun"
        )
    how = _side_by_side(train_device, 0, workers, tensorboard=tensorboard)
    with SearchDisplay() as display:
        combinations = train_grid(out, request, how=how, observer=display)
        best = combinations[0]
        latency = None if best.result is None else ending.measure(best.directory, display)
    if ending.as_json:
        print_json(
            {
                "schema": 1,
                "combinations": [one.to_json() for one in combinations],
                "best": None if best.result is None else best.result.to_json(),
                "latency_ms": None if latency is None else latency.latency_ms,
            }
        )
        return
    columns = (
        *(Column(name, name) for name in GRID),
        Column("validation", "validation"),
    )
    rows: list[dict[str, object]] = [
        {
            **{name: f"{value:g}" for name, value in one.changes.items()},
            "validation": one.failure or f"{one.validation_top1:.2%}",
        }
        for one in combinations
    ]
    print_table(f"{len(rows)} trainings, the best first", columns, rows, as_json=False)
    if best.result is not None:
        OUTPUT.print(ending.line(best.directory, best.result, latency), markup=False)


def _side_by_side(train_device: str, jobs: int, workers: int, *, tensorboard: bool) -> SideBySide:
    """Return how several trainings share this machine; 0 is one an accelerator, or a core."""
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.evaluation.executors.protocol import parallel_trainings
    from tvm_mnas.training.accelerators import find_devices
    from tvm_mnas.workflows.training.side_by_side import SideBySide

    devices = find_devices(train_device)
    beside = parallel_trainings(jobs, devices)
    return SideBySide(
        devices=devices,
        jobs=beside,
        workers=workers or max(1, usable_processes() // beside),
        tensorboard=tensorboard,
    )


def transfer(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where; by default RUN/transfer.")
    ] = None,
    top: Annotated[int, typer.Option(help="So many of the highest rewards.")] = 12,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe by name, or a TOML file; by default imagenet-full, or coco-ssdlite for detectors."
        ),
    ] = None,
    set_values: RecipeValues = None,
    data: Annotated[str | None, typer.Option(help="Other data than the run's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of every random choice.")] = 0,
    train_device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (every accelerator) or cuda:N.")
    ] = "auto",
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings side by side; 0: one an accelerator, or a core.")
    ] = 0,
    tensorboard: Tensorboard = False,
    device: Annotated[str | None, typer.Option(help="Another device than the run's.")] = None,
    records: Annotated[str | None, typer.Option(help="Other records than the run's.")] = None,
    schedules_per_kernel: Annotated[
        int, typer.Option(min=1, help="Schedules to measure for a kernel without records.")
    ] = 32,
    as_json: AsJson = False,
) -> None:
    """Train the winners of a search in full, and show accuracy beside latency; typed again, it goes on."""
    from tvm_mnas.search.run import RunDirectory
    from tvm_mnas.training.log import check_tensorboard
    from tvm_mnas.training.recipe import default_recipe, find_recipe, parse_changes
    from tvm_mnas.workflows.training.transfer import TransferOptions
    from tvm_mnas.workflows.training.transfer import transfer as run_transfer

    if tensorboard:
        check_tensorboard()
    options = TransferOptions(
        recipe=find_recipe(
            recipe or default_recipe(RunDirectory.open(run).config.task == DETECTION_TASK),
            parse_changes(set_values or []),
        ),
        data=data,
        seed=seed,
        how=_side_by_side(train_device, jobs, 0, tensorboard=tensorboard),
        device=device,
        records=records,
        schedules_per_kernel=schedules_per_kernel,
    )
    with SearchDisplay() as display:
        winners = run_transfer(
            run,
            run / "transfer" if out is None else out,
            top=top,
            options=options,
            observer=display,
        )
    if as_json:
        print_json({"schema": 1, "winners": [winner.to_json() for winner in winners]})
        return
    columns = (
        Column("trial", "trial"),
        Column("in the search", "search"),
        Column("test", "test", number=False),
        Column("latency", "latency"),
        Column("network", "notation", number=False, wraps=True),
    )
    print_table(f"{len(winners)} winners of {run}", columns, [_row(one) for one in winners], as_json=False)  # fmt: skip


def _row(winner: Winner) -> dict[str, object]:
    result, latency = winner.result, winner.latency
    return {
        "trial": winner.trial,
        "search": "-" if winner.search_top1 is None else f"{winner.search_top1:.2%}",
        "test": "-" if result is None else score_text(result.test),
        "latency": winner.failure if latency is None else format_ms(latency.latency_ms),
        "notation": winner.notation,
    }


def _as_detector(model: str) -> str:
    """Return the name of SSDLite on what `model` names; of a trial that is its notation."""
    from tvm_mnas.space.detector import PREFIX
    from tvm_mnas.workflows.model_ref import resolve_architecture

    by_name = ":" not in model
    return PREFIX + (model if by_name else resolve_architecture(model).notation)


def _request(
    model: str | None,
    task: str | None,
    data: str | None,
    recipe: str | None,
    changes: list[str],
    seed: int,
    max_bad_images: int,
    weights: Path | None,
) -> TrainingRequest:
    from tvm_mnas.space.detector import PREFIX, DetectorArchitecture
    from tvm_mnas.training.data.sources import class_names
    from tvm_mnas.training.recipe import default_recipe, find_recipe, parse_changes
    from tvm_mnas.workflows.model_ref import resolve_model
    from tvm_mnas.workflows.training.request import TrainingRequest

    if task is not None and task not in TASKS:
        raise ConfigError(f"--task must be {' or '.join(TASKS)}, not {task!r}")

    if model is None or data is None:
        raise ConfigError(
            "a training needs a model and its data; for example: tvm-mnas train mnasnet-b1 --data "
            "imagenet:/data/imagenet -o b1"
        )
    if task == DETECTION_TASK and not model.startswith(PREFIX):
        found = resolve_model(model)
        if not isinstance(found.architecture, DetectorArchitecture):
            found = resolve_model(_as_detector(model))
    else:
        found = resolve_model(model)
    candidate = found.architecture
    if task == CLASSIFICATION and isinstance(candidate, DetectorArchitecture):
        raise ConfigError(f"{model} is a detector, and the task is classification; leave --task out")  # fmt: skip
    chosen = find_recipe(
        recipe or default_recipe(isinstance(candidate, DetectorArchitecture)),
        parse_changes(changes),
    )
    if candidate is None:
        raise ConfigError(
            f"a training needs a network that can be built anew, and {model} is not in the notation; give a notation, "
            f"a network of Table 1 that has one, or RUN:TRIAL"
        )
    if isinstance(candidate, DetectorArchitecture):
        candidate = candidate.of_classes(len(class_names(data)))
    return TrainingRequest(
        notation=candidate.notation,
        data=data,
        recipe=chosen,
        seed=seed,
        max_bad_images=max_bad_images,
        start="" if weights is None else str(weights.absolute()),
    )
