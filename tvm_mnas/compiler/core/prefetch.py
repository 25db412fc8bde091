"""Weights on their way before their turn: a kernel fetches the next slice of them while it works on this one.

In a network a kernel's weights come from memory. The first tile of pixels that needs a slice of them waits for all of
it, the others find it in the first cache; asked for little by little during the slice before, it is there in time. So
with the weights of what is computed behind a slice. A schedule marks its loops for that, which its record keeps, and
before it is compiled the marks become instructions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MARK = "tvm_mnas.prefetch"
_SLICE = "slice"
_TILE = "tile"
_STEP = "step"
_ALSO = "tvm_mnas.prefetch_also"
"""The mark of a loop through slices that another operand is fetched in: its number among the parameters."""

_READING, _DATA = 0, 1
_ALL_CACHES = 3
_SECOND_CACHE = 2

_LINE_BYTES = 64


def mark(schedule: Any, slices: Any, tiles: Sequence[Any], step: Any) -> None:
    """Have the next slice of the packed weights fetched during the loop `step`, a part in each run of it.

    `slices` is the loop through the first axis of the weights, `tiles` are those between, which go through pixels.
    """
    schedule.annotate(slices, _MARK, _SLICE)
    for loop in tiles:
        schedule.annotate(loop, _MARK, _TILE)
    schedule.annotate(step, _MARK, _STEP)


def mark_also(schedule: Any, slices: Any, parameter: int) -> None:
    """Have another parameter's slice of the same run of `slices` fetched too, which is read at the end of that run.

    It is larger than what the run works on, and so comes as far as the second cache.
    """
    schedule.annotate(slices, _ALSO, parameter)


def with_prefetches(module: Any) -> Any:
    """Return the scheduled `module` with the instructions that its loops are marked for.

    Weights are the one parameter of five axes: slices, rows, columns, inputs, channels; pairs of inputs have
    a sixth.
    """
    import tvm

    functions = {}
    for variable, function in module.functions_items():
        if _packed_weights(function) is not None:
            function = function.with_body(_inside(function.body, _Loops(), function))
        functions[variable] = function
    return tvm.IRModule(functions, attrs=module.attrs)


def fetched_at(elements: int, steps: int, line: int) -> tuple[int, list[int]]:
    """Return where a slice of `elements` is fetched at in `steps`: what each step goes on by, and its lines from there.

    A line has `line` elements. Together the steps meet all lines of the slice, and at the end some beyond it.
    """
    advance = -(-elements // steps)
    return advance, list(range(0, advance, line))


@dataclass(frozen=True, slots=True)
class _Region:
    """What is fetched, as far as a cache: `elements` of `operand` in their order, from the first that `slice_` has."""

    operand: Any
    slice_: Any
    elements: int
    cache: int

    def at(self, element: Any) -> Any:
        """Return the place of one of them, counted from the first.

        Indices may be beyond their axes: what counts is the address, which goes on from the first element.
        """
        from tvm import tirx

        between = [0] * (len(self.operand.shape) - 3)
        channels = int(self.operand.shape[-1])
        indices = [self.slice_, *between, element // channels, element % channels]
        return tirx.BufferLoad(self.operand, indices)


@dataclass(frozen=True, slots=True)
class _Loops:
    """The marked loops around a statement: what is fetched in them, how many tiles there are and which it is."""

    regions: tuple[_Region, ...] = ()
    tiles: int = 1
    tile: Any = 0

    def with_tile(self, loop: Any) -> _Loops:
        extent = int(loop.extent)
        return _Loops(self.regions, self.tiles * extent, self.tile * extent + loop.loop_var)


def _packed_weights(function: Any) -> Any:
    found = [one for one in function.params if len(getattr(one, "shape", ())) in (5, 6)]
    return found[0] if len(found) == 1 else None


def _regions(slices: Any, function: Any) -> tuple[_Region, ...]:
    """Return what is fetched in a run of `slices`: the next slice of the weights, and what else it is marked for.

    What is beyond the last slice is asked for like any other, since no core minds.
    """
    weights = _packed_weights(function)
    found = []
    if int(weights.shape[0]) > 1:
        found.append(_Region(weights, slices.loop_var + 1, _slice_elements(weights), _ALL_CACHES))
    if _ALSO in slices.annotations:
        operand = function.params[int(slices.annotations[_ALSO])]
        found.append(_Region(operand, slices.loop_var, _slice_elements(operand), _SECOND_CACHE))
    return tuple(found)


def _slice_elements(operand: Any) -> int:
    return math.prod(int(extent) for extent in operand.shape[1:])


def _inside(statement: Any, loops: _Loops, function: Any) -> Any:
    """Return `statement`, which is inside `loops`, with its marks turned into instructions."""
    from tvm import s_tir, tirx

    if isinstance(statement, tirx.For):
        return _in_loop(statement, loops, function)
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_inside(one, loops, function) for one in statement.seq])
    if isinstance(statement, s_tir.SBlockRealize):
        block = statement.block
        body = _inside(block.body, loops, function)
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


def _in_loop(loop: Any, loops: _Loops, function: Any) -> Any:
    from tvm import tirx

    mark = loop.annotations.get(_MARK)
    fetches: list[Any] = []
    if mark == _SLICE:
        loops = _Loops(_regions(loop, function))
    elif mark == _TILE:
        loops = loops.with_tile(loop)
    elif mark == _STEP:
        fetches = _fetches(loops.with_tile(loop))
    body = _inside(loop.body, loops, function)
    return tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        loop.kind,
        tirx.SeqStmt([*fetches, body]) if fetches else body,
        loop.thread_binding,
        {key: value for key, value in loop.annotations.items() if key not in (_MARK, _ALSO)},
        loop.step,
    )


def _fetches(steps: _Loops) -> list[Any]:
    """Return the statements that fetch one step's part of what is fetched in all of them."""
    import numpy as np
    from tvm import tirx

    fetches = []
    for region in steps.regions:
        line = _LINE_BYTES // np.dtype(str(region.operand.dtype)).itemsize
        advance, lines = fetched_at(region.elements, steps.tiles, line)
        for first in lines:
            at = tirx.address_of(region.at(steps.tile * advance + first))
            fetch = tirx.call_intrin("void", "tirx.prefetch", at, _READING, region.cache, _DATA)
            fetches.append(tirx.Evaluate(fetch))
    return fetches
