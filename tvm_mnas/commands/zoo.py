"""`tvm-mnas zoo`: the networks of the paper's Table 1, counted here and as published."""

from __future__ import annotations

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import Column, format_count, print_json, print_table


def zoo(as_json: AsJson = False) -> None:
    """Show every network of the zoo: its parameters and mult-adds, those published, and where they differ."""
    from tvm_mnas.models.zoo.detectors import DETECTORS
    from tvm_mnas.models.zoo.registry import ZOO

    rows = [entry.to_json() for entry in (*ZOO, *DETECTORS)]
    if as_json:
        print_json(rows)
        return
    columns = (
        Column("key", "key", number=False),
        Column("input", "input_size"),
        Column("params", "parameters"),
        Column("published", "published_parameters"),
        Column("mult-adds", "mult_adds"),
        Column("published", "published_mult_adds"),
        Column("deviation", "deviation", number=False, wraps=True),
    )
    counts = ("parameters", "published_parameters", "mult_adds", "published_mult_adds")
    shown = [
        row | {name: "-" if row[name] is None else format_count(row[name]) for name in counts}
        for row in rows
    ]
    print_table("Networks of Table 1 and 2", columns, shown, as_json=False)
