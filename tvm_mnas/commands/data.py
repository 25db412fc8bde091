"""`tvm-mnas data`: look through every image before hours of training, and write a decoded copy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import MESSAGES, OUTPUT, Column, SearchDisplay, print_json, print_table
from tvm_mnas.errors import DataError

data_app = typer.Typer(
    no_args_is_help=True, help="Look through the images of a data set, or write a decoded copy."
)

_MOST_SHOWN = 20

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="What --data of a search takes.")]
Jobs = Annotated[int, typer.Option(min=0, help="Decoding processes; 0: one a core.")]
MaxBadImages = Annotated[
    int, typer.Option(min=0, help="How many images may be damaged; they are passed over.")
]


@data_app.command("check")
def check(
    spec: Spec, max_bad_images: MaxBadImages = 0, jobs: Jobs = 0, as_json: AsJson = False
) -> None:
    """Decode every image: count them, and name those that are damaged."""
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.training.data.sources import check_data

    # Before torch is imported: a mistake is told at once.
    check_data(spec)
    from tvm_mnas.workflows.data import check_images

    with SearchDisplay() as display:
        found = check_images(
            spec,
            workers=jobs or usable_processes(),
            on_progress=lambda name, done, total: display.stage(f"{name} images", done, total),
        )
    if as_json:
        print_json(asdict(found) | {"schema": 1})
    else:
        for note in found.notes:
            MESSAGES.print(note, markup=False)
        rows = [
            {"split": split.name, "images": split.images, "damaged": len(split.bad)}
            for split in found.splits
        ]
        columns = (
            Column("split", "split", number=False),
            Column("images", "images"),
            Column("damaged", "damaged"),
        )
        print_table(f"{spec}: {len(found.class_names)} classes", columns, rows, as_json=False)
        named = [item for split in found.splits for item in split.bad.items()]
        for name, problem in named[:_MOST_SHOWN]:
            OUTPUT.print(f"{name}: {problem}", markup=False)
        if len(named) > _MOST_SHOWN:
            OUTPUT.print(f"and {len(named) - _MOST_SHOWN} more; --json names all", markup=False)
    if found.bad > max_bad_images:
        raise DataError(
            f"{found.bad} images of {spec} cannot be decoded, and {max_bad_images} may be so; remove or replace them, "
            f"or pass them over with --max-bad-images {found.bad}"
        )


@data_app.command("cache")
def cache(
    spec: Spec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new directory of the copy.")],
    size: Annotated[int, typer.Option(help="The side of its images, in pixels.")] = 160,
    seed: Annotated[int, typer.Option(help="Of the images held out for validation.")] = 0,
    max_bad_images: MaxBadImages = 0,
    jobs: Jobs = 0,
    as_json: AsJson = False,
) -> None:
    """Write a decoded, resized copy, which `--data cache:DIR` trains from without decoding."""
    from tvm_mnas.devices.core.cores import usable_processes
    from tvm_mnas.workflows.data import make_cache

    with SearchDisplay() as display:
        facts = make_cache(
            spec,
            out,
            size=size,
            workers=jobs or usable_processes(),
            seed=seed,
            max_bad_images=max_bad_images,
            on_progress=lambda done, total: display.stage("images", done, total),
        )
    if as_json:
        print_json(facts.to_json())
        return
    counts = ", ".join(f"{count} {name}" for name, count in facts.images.items())
    left_out = f"; {facts.left_out} damaged ones were left out" if facts.left_out else ""
    OUTPUT.print(
        f"{out}: {counts} images of {facts.size} x {facts.size}{left_out}; use it with --data cache:{out}",
        markup=False,
    )
