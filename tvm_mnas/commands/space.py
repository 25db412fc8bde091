"""`tvm-mnas space`: the spaces that ship, what one offers, its kernels, samples from it; one around a network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, print_json, print_table
from tvm_mnas.errors import SpaceError

if TYPE_CHECKING:
    from tvm_mnas.space.space import SearchSpace

_AROUND = "around"


def space(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A space by name, or a TOML file. `space around MODEL` writes one around a network."
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
        Path | None,
        typer.Option("-o", "--output", help="With `around`: the .toml file to write."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the spaces that ship, describe one, count its kernels, sample from it, or write one around a network."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.space.files import load_space, space_names

    if name == _AROUND:
        if sample or kernels:
            raise SpaceError(
                f"`space around` writes a file, and takes neither --sample nor --kernels; type "
                f"`tvm-mnas space around {model or 'mnasnet-b1'} -o FILE.toml`, then name that file"
            )
        _print_around(model, output, as_json=as_json)
        return
    if model is not None or output is not None:
        what = "--output" if model is None else f"a second word, not {model!r}"
        raise SpaceError(
            f"only `space around MODEL` takes {what}; type `tvm-mnas space {name or 'around MODEL'}`"
        )
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


def _print_around(model: str | None, output: Path | None, *, as_json: bool) -> None:
    """Write the space around `model` to `output`, or print it."""
    from tvm_mnas.space.derive import derive_space
    from tvm_mnas.space.files import parse_space
    from tvm_mnas.workflows.model_ref import resolve_architecture

    if model is None:
        raise SpaceError(
            "`space around` takes the network that the space is around, and there is none; type "
            "`tvm-mnas space around mnasnet-b1`"
        )
    architecture = resolve_architecture(model)
    text = derive_space(architecture, model)
    if output is not None:
        _write_new(output, text)
    if as_json:
        made = parse_space(text, output or Path(_AROUND))
        print_json(
            {
                "name": made.name,
                "architecture": architecture.notation,
                "size": made.size,
                "decisions": len(made.decisions),
                "file": None if output is None else str(output),
                "text": text,
            }
        )
    else:
        OUTPUT.print(text.rstrip("\n") if output is None else str(output), markup=False)


def _write_new(path: Path, text: str) -> None:
    if path.suffix != ".toml":
        raise SpaceError(f"a space file ends in .toml, not {str(path)!r}; type `-o {path}.toml`")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpaceError(
            f"{path}: a space is written to a new file in a directory that is there, not {error.strerror}; "
            f"name another with -o"
        ) from error
