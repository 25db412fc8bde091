"""Cells that searches found, as data: NASNet-A, AmoebaNet-A, PNASNet-5 and DARTS.

In a cell, state 0 is the output of the cell before and state 1 that of the cell before that one. Each step adds what
two operations make of two states, and its sum is the next state; the cell's output is the states named last, side by
side.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tvm_mnas.errors import ConfigError


class CellOp(StrEnum):
    """An operation on a state."""

    IDENTITY = "identity"
    """Nothing; where shapes differ ReLU, 1x1 with the stride, batch norm."""
    SKIP = "skip"
    """Nothing; with a stride the factorized reduction."""
    AVG_POOL = "avg_pool"
    MAX_POOL = "max_pool"
    SEP_3 = "sep_3"
    """ReLU, depthwise, 1x1, batch norm, and all of it once more."""
    SEP_5 = "sep_5"
    SEP_7 = "sep_7"
    DILATED_3 = "dilated_3"
    """ReLU, depthwise 3x3 on every second pixel, 1x1, batch norm."""
    THIN_7 = "thin_7"
    """1x7 and 7x1 on a quarter of the channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Genotype:
    """The steps of a cell, left operation and state, right operation and state, and the states that leave it."""

    steps: tuple[tuple[CellOp, int, CellOp, int], ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for index, (_, left, _, right) in enumerate(self.steps):
            if not 0 <= min(left, right) <= max(left, right) < index + 2:
                raise ConfigError(
                    f"step {index} takes states before its own, not {left} and {right}"
                )
        if not self.outputs or max(self.outputs) > len(self.steps) + 1:
            raise ConfigError(f"a cell's outputs must be states that it has, not {self.outputs}")


_ID, _SKIP, _AVG, _MAX = CellOp.IDENTITY, CellOp.SKIP, CellOp.AVG_POOL, CellOp.MAX_POOL
_SEP_3, _SEP_5, _SEP_7 = CellOp.SEP_3, CellOp.SEP_5, CellOp.SEP_7

NASNET_A_NORMAL = Genotype(
    steps=(
        (_SEP_5, 0, _SEP_3, 1),
        (_SEP_5, 1, _SEP_3, 1),
        (_AVG, 0, _ID, 1),
        (_AVG, 1, _AVG, 1),
        (_SEP_3, 0, _ID, 0),
    ),
    outputs=(1, 2, 3, 4, 5, 6),
)
NASNET_A_REDUCTION = Genotype(
    steps=(
        (_SEP_5, 0, _SEP_7, 1),
        (_MAX, 0, _SEP_7, 1),
        (_AVG, 0, _SEP_5, 1),
        (_ID, 3, _AVG, 2),
        (_SEP_3, 2, _MAX, 0),
    ),
    outputs=(3, 4, 5, 6),
)
AMOEBANET_A_NORMAL = Genotype(
    steps=(
        (_AVG, 0, _MAX, 0),
        (_SEP_3, 1, _ID, 1),
        (_ID, 0, _AVG, 1),
        (_SEP_3, 0, _SEP_5, 2),
        (_AVG, 5, _SEP_3, 0),
    ),
    outputs=(1, 3, 4, 6),
)
AMOEBANET_A_REDUCTION = Genotype(
    steps=(
        (_SEP_3, 1, _AVG, 0),
        (_MAX, 0, _SEP_7, 2),
        (_MAX, 1, _MAX, 0),
        (_SEP_3, 4, CellOp.THIN_7, 0),
        (_AVG, 1, _SEP_7, 0),
    ),
    outputs=(2, 3, 4, 5, 6),
)
PNASNET_5 = Genotype(
    steps=(
        (_SEP_5, 1, _MAX, 1),
        (_SEP_7, 0, _MAX, 0),
        (_SEP_5, 0, _SEP_3, 0),
        (_SEP_3, 4, _MAX, 0),
        (_SEP_3, 1, _ID, 0),
    ),
    outputs=(2, 3, 4, 5, 6),
)
DARTS_V1_NORMAL = Genotype(
    steps=(
        (_SEP_3, 0, _SEP_3, 1),
        (_SKIP, 1, _SEP_3, 0),
        (_SKIP, 1, _SEP_3, 0),
        (_SEP_3, 1, _SKIP, 2),
    ),
    outputs=(2, 3, 4, 5),
)
"""Of the first version of its paper, whose figures Table 1 quotes."""
DARTS_V1_REDUCTION = Genotype(
    steps=(
        (_MAX, 1, _MAX, 0),
        (_SKIP, 2, _MAX, 1),
        (_MAX, 1, _SKIP, 2),
        (_SKIP, 2, _AVG, 1),
    ),
    outputs=(2, 3, 4, 5),
)
DARTS_V2_NORMAL = Genotype(
    steps=(
        (_SEP_3, 1, _SEP_3, 0),
        (_SEP_3, 1, _SEP_3, 0),
        (_SEP_3, 0, _SKIP, 1),
        (_SKIP, 1, CellOp.DILATED_3, 2),
    ),
    outputs=(2, 3, 4, 5),
)
DARTS_V2_REDUCTION = Genotype(
    steps=(
        (_MAX, 1, _MAX, 0),
        (_SKIP, 2, _MAX, 0),
        (_MAX, 1, _SKIP, 2),
        (_SKIP, 2, _MAX, 0),
    ),
    outputs=(2, 3, 4, 5),
)
