"""Schedules for a depthwise convolution and the pointwise one that reads it, in one kernel: row by row.

By themselves the first writes an image that the caches may not hold and the second reads it back. Here a row of it is
computed when the second needs it, into memory that stays in the first cache. Each has its own register tile, as it
would have alone (`convolution.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tvm_mnas.compiler.core.target import core_model
from tvm_mnas.compiler.schedules.blocks import (
    REDUCTION,
    ReductionBlocks,
    applicable,
    kernel_blocks,
    kinds,
    pack_weights,
    start_in_registers,
    written_dtype,
)
from tvm_mnas.compiler.schedules.convolution import shape_of_sums, tile_sums
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder, Tile, rank_tiles
from tvm_mnas.cores.model import CoreModel

_TILES = 6
"""How many tiles of each convolution are tried."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """The blocks of both convolutions: what is between them is `depthwise.after`, of which the last writes the row."""

    depthwise: ReductionBlocks
    pointwise: ReductionBlocks


def propose_joined(module: Any, target: str) -> Iterator[Any]:
    """Yield schedules of `module` for one core of `target` (its JSON text), the most promising first.

    None if it is no depthwise convolution with a pointwise one behind it.
    """
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = _blocks(schedule)
    if blocks is None:
        return
    depthwise = shape_of_sums(schedule, blocks.depthwise)
    pointwise = shape_of_sums(schedule, blocks.pointwise)
    if depthwise is None or pointwise is None or not depthwise.depthwise or pointwise.taps > 1:
        return
    core = core_model(target, dtype=written_dtype(schedule, blocks.pointwise.sums))
    yield from applicable(
        partial(schedule_joined, module, deep, point)
        for deep, point in rank_pairs(depthwise, pointwise, core)
    )


def rank_pairs(
    depthwise: ConvShape, pointwise: ConvShape, core: CoreModel
) -> list[tuple[Tile, Tile]]:
    """Return pairs of tiles, each of one row, the most promising for both together first."""
    deep = [tile for tile in rank_tiles(depthwise, core) if tile.rows == 1][:_TILES]
    # The row of the image is the outermost loop: what the second reads is computed in it.
    point = dict.fromkeys(
        replace(tile, order=LoopOrder.CHANNELS_INSIDE, prefetch=False)
        for tile in rank_tiles(pointwise, core)
        if tile.rows == 1 and not tile.flat
    )
    pairs = [
        (one + other, (first, second))
        for one, first in enumerate(deep)
        for other, second in enumerate(list(point)[:_TILES])
    ]
    return [pair for _, pair in sorted(pairs, key=lambda placed: placed[0])]


def schedule_joined(module: Any, deep: Tile, point: Tile) -> Any:
    """Return a schedule of `module` for one core, its depthwise convolution in tiles `deep`, the other's in `point`."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = _blocks(schedule)
    assert blocks is not None, "propose_joined says whether there are two convolutions"
    for block in (*blocks.depthwise.before, *blocks.depthwise.after[:-1]):
        schedule.compute_inline(block)
    tile_sums(schedule, blocks.pointwise, point, threads=1)
    _, row, *_ = schedule.get_loops(blocks.pointwise.sums)
    written, sums = blocks.depthwise.after[-1], blocks.depthwise.sums
    schedule.compute_at(written, row, preserve_unit_loops=True)
    *_, x, channel = schedule.get_loops(written)
    x_tile, x_pixel = schedule.split(x, [None, deep.columns])
    slice_, lane = schedule.split(channel, [None, deep.lanes])
    outside = [slice_, x_tile] if deep.order is LoopOrder.CHANNELS_OUTSIDE else [x_tile, slice_]
    schedule.reorder(*outside, x_pixel, lane)
    schedule.unroll(x_pixel)
    schedule.vectorize(lane)
    schedule.compute_at(sums, outside[-1], preserve_unit_loops=True)
    *around, x_pixel, lane, kernel_y, kernel_x, one = schedule.get_loops(sums)
    schedule.reorder(kernel_y, kernel_x, one, x_pixel, lane)
    for loop in (kernel_y, kernel_x, one, x_pixel):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    start_in_registers(schedule, sums, kernel_y, len(around))
    lanes = deep.lanes
    pack_weights(schedule, sums, lambda y, x, i, o: (o // lanes, y, x, i, o % lanes))
    return schedule


def _blocks(schedule: Any) -> _Joined | None:
    """Return the blocks of a kernel with two that sum, something element-wise between them; None for any other."""
    blocks = kernel_blocks(schedule)
    sums = [at for at, block in enumerate(blocks) if REDUCTION in kinds(schedule, block)]
    if len(sums) != 2:
        return None
    first, second = sums
    between = blocks[first + 1 : second]
    if not between:
        return None
    return _Joined(
        ReductionBlocks(blocks[:first], blocks[first], between),
        ReductionBlocks([], blocks[second], blocks[second + 1 :]),
    )
