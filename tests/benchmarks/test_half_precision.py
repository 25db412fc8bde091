"""Precisions side by side: medians, and the ratio of each round, which noise of another round does not reach."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

Script = Callable[[str], ModuleType]


def test_ratios_are_of_the_same_round(script: Script) -> None:
    rounds = {"float32": [4.0, 8.0, 6.0], "float16": [2.0, 4.0, 3.0]}
    lines = (
        script("half_precision")
        .table(rounds, {"float32": 4e-6, "float16": 0.0123}, beside="float32")
        .splitlines()
    )
    assert lines[0] == "| computed in | median ms | x float32 | difference |"
    assert lines[2:] == [
        "| float32 | 6.000 | 1.000 | 4.0e-06 |",
        "| float16 | 3.000 | 0.500 | 1.2e-02 |",
    ]
