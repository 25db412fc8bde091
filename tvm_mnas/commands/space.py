"""`tvm-mnas space list | show | check | derive | reference`."""

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

space_app = typer.Typer(
    no_args_is_help=True,
    help="Search spaces: those that ship, one in a file, one around a network, and what a space file may say.",
)

_Space = Annotated[str, typer.Argument(help="A space by name, or a TOML file.")]


@space_app.command("list")
def list_spaces(as_json: AsJson = False) -> None:
    """List the spaces that ship."""
    from tvm_mnas.space.files import load_space, space_names

    rows: list[dict[str, Any]] = [
        {
            "name": known.name,
            "size": known.size,
            "decisions": len(known.decisions),
            "blocks": len(known.blocks),
            "input": known.input_size,
            "classes": known.classes,
        }
        for known in map(load_space, space_names())
    ]
    columns = (
        Column("name", "name", number=False),
        Column("architectures", "size"),
        Column("decisions", "decisions"),
        Column("blocks", "blocks"),
        Column("input", "input"),
        Column("classes", "classes"),
    )
    print_table("Spaces", columns, rows, as_json=as_json)


@space_app.command()
def show(
    name: _Space,
    sample: Annotated[int, typer.Option(min=0, help="Print this many random architectures.")] = 0,
    seed: Annotated[int, typer.Option(help="The seed of the sample.")] = 0,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Count the distinct kernels of the whole space.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the decisions of a space, random architectures of it, or how many kernels it has."""
    from tvm_mnas.space.files import load_space

    if kernels and sample:
        raise SpaceError(
            f"cannot show two things at once: --kernels counts, --sample draws; "
            f"type `tvm-mnas space show {name} --kernels`"
        )
    chosen = load_space(name)
    if kernels:
        _print_kernels(chosen, as_json=as_json)
    elif sample:
        _print_sample(chosen, sample, seed, as_json=as_json)
    else:
        _print_decisions(chosen, as_json=as_json)


@space_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A space file.")], as_json: AsJson = False
) -> None:
    """Check a space file: its size and decisions if it is good, one line with the remedy if not."""
    from tvm_mnas.space.files import read_space

    chosen = read_space(file)
    row = {
        "file": str(file),
        "name": chosen.name,
        "size": chosen.size,
        "decisions": len(chosen.decisions),
        "blocks": len(chosen.blocks),
        "fingerprint": chosen.fingerprint,
    }
    if as_json:
        print_json(row)
    else:
        OUTPUT.print(
            f"{file}: good; {chosen.name}, {chosen.size:,} architectures by {len(chosen.decisions)} "
            f"decisions in {len(chosen.blocks)} blocks",
            markup=False,
        )


@space_app.command()
def derive(
    model: Annotated[str, typer.Argument(help="A key of the zoo, a notation, or RUN:TRIAL.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The .toml file to write.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a space of networks near one that you have."""
    from tvm_mnas.space.derive import derive_space
    from tvm_mnas.space.files import parse_space
    from tvm_mnas.workflows.model_ref import resolve_architecture

    architecture = resolve_architecture(model)
    text = derive_space(architecture, model)
    if output is not None:
        _write_new(output, text)
    if as_json:
        made = parse_space(text, output or Path("derived"))
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


@space_app.command()
def reference() -> None:
    """Print what a space file may say: every key, every operation, every permitted value."""
    from tvm_mnas.space.reference import space_reference

    OUTPUT.print(space_reference(), markup=False, highlight=False)


def _print_sample(chosen: SearchSpace, count: int, seed: int, *, as_json: bool) -> None:
    from tvm_mnas.models.cost import count_cost

    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
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


def _print_decisions(chosen: SearchSpace, *, as_json: bool) -> None:
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


def _write_new(path: Path, text: str) -> None:
    if path.suffix != ".toml":
        raise SpaceError(
            f"a space file must end in .toml, not {str(path)!r}; type `-o {path}.toml`"
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpaceError(
            f"cannot write the space to {path}: {error.strerror}; name another with -o"
        ) from error
