"""`tvm-mnas space`: the spaces that ship, what one offers, its kernels, samples from it, and one around a network."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, print_json, print_table
from tvm_mnas.errors import SpaceError

if TYPE_CHECKING:
    from tvm_mnas.space.space import SearchSpace

AROUND = "around"


def space(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A space by name, or a TOML file; `around` with a MODEL writes the space around that."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Argument(help="After `around`: a key of the zoo, a notation, or RUN:TRIAL."),
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Print this many random architectures.")] = 0,
    seed: Annotated[int, typer.Option(help="The seed of the sample.")] = 0,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Count the distinct kernels of the whole space.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With `around`: the TOML file to write.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the spaces that ship, describe one, count its kernels, sample from it, or make one around a network."""
    if name == AROUND:
        _write_around(model, output)
        return
    if model is not None or output is not None:
        raise SpaceError(
            f"a MODEL and -o belong to `around`, not to the space {name}; "
            f"type `tvm-mnas space around {model or 'mnasnet-b1'}`"
        )
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.space.files import load_space, space_names

    if kernels and (name is None or sample):
        other = "--sample too" if sample else "no space"
        raise SpaceError(
            f"--kernels counts those of one space, not with {other}; "
            f"type `tvm-mnas space {name or 'quickstart'} --kernels`"
        )
    if name is None:
        spaces = [load_space(known) for known in space_names()]
        overview: list[dict[str, Any]] = [
            {
                "name": known.name,
                "size": known.size,
                "decisions": len(known.decisions),
                "blocks": len(known.blocks),
                "input": known.input_size,
                "classes": known.classes,
            }
            for known in spaces
        ]
        columns: tuple[Column, ...] = (
            Column("name", "name", number=False),
            Column("architectures", "size"),
            Column("decisions", "decisions"),
            Column("blocks", "blocks"),
            Column("input", "input"),
            Column("classes", "classes"),
        )
        print_table("Spaces", columns, overview, as_json=as_json)
        return
    chosen = load_space(name)
    if kernels:
        _print_kernels(chosen, as_json=as_json)
        return
    if sample:
        rng = random.Random(seed)
        rows: list[dict[str, Any]] = []
        for _ in range(sample):
            architecture = chosen.decode(chosen.sample(rng))
            cost = count_cost(architecture)
            rows.append(
                {
                    "id": architecture.id,
                    "parameters": cost.parameters,
                    "mult_adds": cost.mult_adds,
                    "architecture": architecture.notation,
                }
            )
        if as_json:
            print_json(rows)
            return
        for row in rows:
            # A notation is typed again elsewhere: it stays on one line, whatever the width.
            OUTPUT.print(
                f"{row['id']}  {row['parameters']:>10,} parameters  {row['mult_adds']:>13,} mult-adds  "
                f"{row['architecture']}",
                markup=False,
            )
        return
    decisions: list[dict[str, Any]] = [
        {
            "decision": decision.name,
            "choices": list(decision.choices) if as_json else ", ".join(map(str, decision.choices)),
        }
        for decision in chosen.decisions
    ]
    columns = (
        Column("decision", "decision", number=False),
        Column("choices", "choices", number=False, wraps=True),
    )
    print_table(
        f"{chosen.name}: {chosen.size:,} architectures", columns, decisions, as_json=as_json
    )


def _write_around(model: str | None, output: Path | None) -> None:
    from tvm_mnas.search.model import find_model
    from tvm_mnas.space.around import space_around

    if model is None:
        raise SpaceError("a space is around a MODEL; type `tvm-mnas space around mnasnet-b1`")
    architecture = find_model(model).architecture
    if architecture is None:
        raise SpaceError(
            f"a space is around a sequence of blocks, and {model} is none; `tvm-mnas zoo --json` has the notations"
        )
    text = space_around(
        architecture, name=f"around-{architecture.id}" if output is None else output.stem
    )
    if output is None:
        sys.stdout.write(text)
        return
    if output.suffix != ".toml":
        raise SpaceError(f"a space file ends in .toml, not {output}")
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpaceError(
            f"{output}: a new space file can be written, not: {error.strerror}; give -o another path"
        ) from error
    OUTPUT.print(f"{output} written; `tvm-mnas space {output}` describes it", markup=False)


def _print_kernels(chosen: SearchSpace, *, as_json: bool) -> None:
    from tvm_mnas.space.kernels import count_kernels

    counted = count_kernels(chosen)
    if as_json:
        print_json(
            {
                "name": chosen.name,
                "kernels": len(counted.distinct),
                "by_part": {part: len(kernels) for part, kernels in counted.parts},
                "by_kind": counted.kinds,
                "least_mult_adds": counted.least_mult_adds,
                "most_mult_adds": counted.most_mult_adds,
            }
        )
        return
    print_table(
        f"{chosen.name}: {len(counted.distinct):,} distinct kernels",
        (Column("kind", "kind", number=False), Column("kernels", "kernels")),
        [{"kind": kind, "kernels": count} for kind, count in counted.kinds.items()],
        as_json=False,
    )
    print_table(
        "By part (a kernel in two parts counts in both)",
        (Column("part", "part", number=False), Column("kernels", "kernels")),
        [{"part": part, "kernels": len(kernels)} for part, kernels in counted.parts],
        as_json=False,
    )
    OUTPUT.print(
        f"{counted.least_mult_adds:,} to {counted.most_mult_adds:,} mult-adds", markup=False
    )
