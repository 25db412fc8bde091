"""Weights on their way before their turn: a kernel fetches the next slice of them while it works on this one.

In a network a kernel's weights come from memory. The first tile of pixels that needs a slice of them waits for all of
it, the others find it in the first cache; asked for little by little during the slice before, it is there in time. A
schedule marks its loops for that, which its record keeps, and before it is compiled the marks become instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MARK = "tvm_mnas.prefetch"
_SLICE = "slice"
_TILE = "tile"
_STEP = "step"

_LINE_BYTES = 64


def mark(schedule: Any, slices: Any, tiles: Sequence[Any], step: Any) -> None:
    """Have the next slice of the packed weights fetched during the loop `step`, a part in each run of it.

    `slices` is the loop through the first axis of the weights, `tiles` are those between, which go through pixels.
    """
    schedule.annotate(slices, _MARK, _SLICE)
    for loop in tiles:
        schedule.annotate(loop, _MARK, _TILE)
    schedule.annotate(step, _MARK, _STEP)


def with_prefetches(module: Any) -> Any:
    """Return the scheduled `module` with the instructions that its loops are marked for.

    Weights are the one parameter of five axes: slices, rows, columns, inputs, channels.
    """
    import tvm

    functions = {}
    for variable, function in module.functions_items():
        weights = _packed_weights(function)
        if weights is not None:
            function = function.with_body(_inside(function.body, _Loops(), weights))
        functions[variable] = function
    return tvm.IRModule(functions, attrs=module.attrs)


def fetched_at(elements: int, steps: int, line: int) -> tuple[int, list[int]]:
    """Return where a slice of `elements` is fetched at in `steps`: what each step goes on by, and its lines from there.

    A line has `line` elements. Together the steps meet all lines of the slice, and at the end some beyond it.
    """
    advance = -(-elements // steps)
    return advance, list(range(0, advance, line))


@dataclass(frozen=True, slots=True)
class _Loops:
    """The marked loops around a statement: the variable of the slices, how many tiles there are and which it is."""

    slice_: Any = None
    tiles: int = 1
    tile: Any = 0

    def with_tile(self, loop: Any) -> _Loops:
        extent = int(loop.extent)
        return _Loops(self.slice_, self.tiles * extent, self.tile * extent + loop.loop_var)


def _packed_weights(function: Any) -> Any:
    found = [one for one in function.params if len(getattr(one, "shape", ())) == 5]
    return found[0] if len(found) == 1 else None


def _inside(statement: Any, loops: _Loops, weights: Any) -> Any:
    """Return `statement`, which is inside `loops`, with its marks turned into instructions."""
    from tvm import s_tir, tirx

    if isinstance(statement, tirx.For):
        return _in_loop(statement, loops, weights)
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_inside(one, loops, weights) for one in statement.seq])
    if isinstance(statement, s_tir.SBlockRealize):
        block = statement.block
        body = _inside(block.body, loops, weights)
        if body.same_as(block.body):
            return statement
        changed = s_tir.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            body,
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )
        return s_tir.SBlockRealize(statement.iter_values, statement.predicate, changed)
    return statement


def _in_loop(loop: Any, loops: _Loops, weights: Any) -> Any:
    from tvm import tirx

    mark = loop.annotations.get(_MARK)
    fetches: list[Any] = []
    if mark == _SLICE:
        loops = _Loops(loop.loop_var)
    elif mark == _TILE:
        loops = loops.with_tile(loop)
    elif mark == _STEP:
        fetches = _fetches(loops.with_tile(loop), weights)
    body = _inside(loop.body, loops, weights)
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        tirx.SeqStmt([*fetches, body]) if fetches else body,
        loop.thread_binding,
        {key: value for key, value in loop.annotations.items() if key != _MARK},
        loop.step,
    )


def _fetches(steps: _Loops, weights: Any) -> list[Any]:
    """Return the statements that fetch one step's part of the next slice.

    What is beyond the last slice is asked for like any other, since no core minds.
    """
    import numpy as np
    from tvm import tirx

    slices, rows, columns, inputs, channels = (int(extent) for extent in weights.shape)
    if slices == 1:
        return []
    line = _LINE_BYTES // np.dtype(str(weights.dtype)).itemsize
    advance, lines = fetched_at(rows * columns * inputs * channels, steps.tiles, line)
    fetches = []
    for first in lines:
        element = steps.tile * advance + first
        # Indices beyond their axes: what counts is the address, which goes on from the first element of the slice.
        at = tirx.BufferLoad(
            weights, [steps.slice_ + 1, 0, 0, element // channels, element % channels]
        )
        reading, all_caches, data = 0, 3, 1
        fetches.append(
            tirx.Evaluate(
                tirx.call_intrin(
                    "void", "tirx.prefetch", tirx.address_of(at), reading, all_caches, data
                )
            )
        )
    return fetches
