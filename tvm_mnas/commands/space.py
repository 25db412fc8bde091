"""`tvm-mnas space`: the spaces that ship, what one offers, samples from it."""

from __future__ import annotations

import random
from typing import Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import OUTPUT, Column, print_json, print_table


def space(
    name: Annotated[str | None, typer.Argument(help="A space by name, or a TOML file.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Print this many random architectures.")] = 0,
    seed: Annotated[int, typer.Option(help="The seed of the sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List the spaces that ship, describe one, or sample from it."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.space.files import load_space, space_names

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
