"""`tvm-mnas train` and `transfer`: networks by a whole recipe, with test accuracies and tuned, measured .so files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.commands.options import DEFAULTS, AsJson, Device, RecipeValues, Records
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, format_ms, print_json, print_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.workflows.training.request import TrainingRequest
    from tvm_mnas.workflows.training.transfer import Winner


def train(
    model: Annotated[
        str | None,
        typer.Argument(help="A network of the zoo, a notation, or a trial of a run, RUN:TRIAL."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What --data of a search takes.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The new directory of the training.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="A recipe by name, or a TOML file.")
    ] = "imagenet-full",
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
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.training.accelerators import find_devices
    from tvm_mnas.workflows.training.full import train as run
    from tvm_mnas.workflows.training.request import create_training, read_request

    # What needs no torch first: a mistake is told at once.
    request = None
    if resume is None:
        request = _request(model, data, recipe, set_values or [], seed, max_bad_images, weights)
        if out is None:
            raise ConfigError("a training needs its directory, and none is named; add -o DIR")
    elif model is not None or data is not None or out is not None or set_values:
        raise ConfigError(
            "a resumed training keeps its settings; leave out the model, --data, --out and --set beside --resume"
        )
    else:
        out = resume
        read_request(out)
    from tvm_mnas.training.processes import join_processes, leave_processes

    devices = find_devices(train_device)
    group = join_processes()
    if request is not None and group.leads:
        create_training(out, request)
    group.wait()
    latency = None
    try:
        with SearchDisplay(1) as display:
            result = run(
                out,
                device=devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)],
                workers=workers or usable_processes(),
                observer=display,
                group=group,
            )
            if export and group.leads:
                from tvm_mnas.workflows.training.handover import export_training

                latency = export_training(
                    out,
                    device=device,
                    records=records,
                    schedules_per_kernel=schedules_per_kernel,
                    observer=display,
                ).latency
    finally:
        leave_processes(group)
    if not group.leads:
        return
    if as_json:
        print_json(result.to_json() | {"latency_ms": None if latency is None else latency.latency_ms})  # fmt: skip
        return
    OUTPUT.print(
        f"{out}: {result.test_top1:.2%} top-1 and {result.test_top5:.2%} top-5 of {result.test_samples} test images "
        f"after {result.epochs:.3g} epochs"
        + (
            ""
            if latency is None
            else f"; {format_ms(latency.latency_ms)} on {device}: {out}/export/net.so"
        ),
        markup=False,
    )


def transfer(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where; by default RUN/transfer.")
    ] = None,
    top: Annotated[int, typer.Option(help="So many of the highest rewards.")] = 12,
    recipe: Annotated[
        str, typer.Option(help="A recipe by name, or a TOML file.")
    ] = "imagenet-full",
    set_values: RecipeValues = None,
    data: Annotated[str | None, typer.Option(help="Other data than the run's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of every random choice.")] = 0,
    train_device: Annotated[
        str, typer.Option(help="auto, cpu, cuda (every accelerator) or cuda:N.")
    ] = "auto",
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings side by side; 0: one an accelerator, or a core.")
    ] = 0,
    device: Annotated[str | None, typer.Option(help="Another device than the run's.")] = None,
    records: Annotated[str | None, typer.Option(help="Other records than the run's.")] = None,
    schedules_per_kernel: Annotated[
        int, typer.Option(min=1, help="Schedules to measure for a kernel without records.")
    ] = 32,
    as_json: AsJson = False,
) -> None:
    """Train the winners of a search in full, and show accuracy beside latency; typed again, it goes on."""
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.training.accelerators import find_devices
    from tvm_mnas.training.recipe import find_recipe, parse_changes
    from tvm_mnas.workflows.training.transfer import TransferOptions
    from tvm_mnas.workflows.training.transfer import transfer as run_transfer

    devices = find_devices(train_device)
    beside = jobs or (usable_processes() if devices == ("cpu",) else len(devices))
    options = TransferOptions(
        recipe=find_recipe(recipe, parse_changes(set_values or [])),
        data=data,
        seed=seed,
        devices=devices,
        jobs=beside,
        workers=max(1, usable_processes() // beside),
        device=device,
        records=records,
        schedules_per_kernel=schedules_per_kernel,
    )
    with SearchDisplay(1) as display:
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
        Column("top-1", "top1"),
        Column("top-5", "top5"),
        Column("latency", "latency"),
        Column("network", "notation", number=False, wraps=True),
    )
    print_table(f"{len(winners)} winners of {run}", columns, [_row(one) for one in winners], as_json=False)  # fmt: skip


def _row(winner: Winner) -> dict[str, object]:
    result, latency = winner.result, winner.latency
    return {
        "trial": winner.trial,
        "search": "-" if winner.search_top1 is None else f"{winner.search_top1:.2%}",
        "top1": "-" if result is None else f"{result.test_top1:.2%}",
        "top5": "-" if result is None else f"{result.test_top5:.2%}",
        "latency": winner.failure if latency is None else format_ms(latency.latency_ms),
        "notation": winner.notation,
    }


def _request(
    model: str | None,
    data: str | None,
    recipe: str,
    changes: list[str],
    seed: int,
    max_bad_images: int,
    weights: Path | None,
) -> TrainingRequest:
    from tvm_mnas.training.recipe import find_recipe, parse_changes
    from tvm_mnas.workflows.model_ref import resolve_model
    from tvm_mnas.workflows.training.request import TrainingRequest

    if model is None or data is None:
        raise ConfigError(
            "a training needs a model and its data; for example: tvm-mnas train mnasnet-b1 --data "
            "imagenet:/data/imagenet -o b1"
        )
    chosen = find_recipe(recipe, parse_changes(changes))
    found = resolve_model(model)
    if found.architecture is None:
        raise ConfigError(
            f"a training needs a network that can be built anew, and {model} is not in the notation; give a notation, "
            f"a network of Table 1 that has one, or RUN:TRIAL"
        )
    return TrainingRequest(
        notation=found.architecture.notation,
        data=data,
        recipe=chosen,
        seed=seed,
        max_bad_images=max_bad_images,
        start="" if weights is None else str(weights.absolute()),
    )
