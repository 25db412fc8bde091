"""Schedules for a depthwise convolution and the pointwise one that reads it, in one kernel: row by row.

By themselves the first writes an image that the caches may not hold and the second reads it back. Here a row of it is
computed when the second needs it, into memory that stays in the first cache. Each has its own register tile, as it
would have alone (`convolution.py`). So with a full convolution before them, such as the expansion of an inverted
residual: it computes the rows that the depthwise one reads when they are needed, each once (`core/rolling.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tvm_mnas.compiler.core.rolling import mark_rows
from tvm_mnas.compiler.core.target import core_dots, core_model
from tvm_mnas.compiler.schedules.blocks import (
    REDUCTION,
    ReductionBlocks,
    applicable,
    elements,
    extent,
    kernel_blocks,
    kinds,
    start_in_registers,
    written_dtype,
)
from tvm_mnas.compiler.schedules.convolution import (
    NO_DOTS,
    copied_inputs,
    in_pairs,
    load_inputs,
    pack_in_slices,
    shape_of_sums,
    tile_sums,
)
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder, PaddingSource, Tile, rank_tiles
from tvm_mnas.cores.model import CoreModel

_TILES = 6
"""How many tiles of each convolution are tried."""


@dataclass(frozen=True, slots=True)
class JoinedTiles:
    """The register tiles of the convolutions in one kernel; `full` is None where it has no full convolution."""

    depthwise: Tile
    pointwise: Tile
    full: Tile | None = None


@dataclass(frozen=True, slots=True)
class _Joined:
    """The blocks of the convolutions: what is between two is `after` the first, of which the last writes its rows."""

    depthwise: ReductionBlocks
    pointwise: ReductionBlocks
    full: ReductionBlocks | None = None


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
    dots = core_dots(target)
    if blocks.full is None:
        tiles = rank_pairs(depthwise, pointwise, core, pair_lanes=dots)
    else:
        full = shape_of_sums(schedule, blocks.full)
        if full is None or full.groups > 1:
            return
        tiles = rank_chains(full, depthwise, pointwise, core, pair_lanes=dots)
    yield from applicable(partial(schedule_joined, module, one, dots=dots) for one in tiles)


def rank_pairs(
    depthwise: ConvShape,
    pointwise: ConvShape,
    core: CoreModel,
    *,
    pair_lanes: Collection[int] = (),
) -> list[JoinedTiles]:
    """Return tiles for both, each of one row, the most promising for both together first."""
    # The row of the image is the outermost loop: what the second reads is computed in it.
    point = dict.fromkeys(
        replace(tile, order=LoopOrder.CHANNELS_INSIDE, prefetch=False)
        for tile in _of_a_row(pointwise, core, pair_lanes)
    )
    pairs = [
        (one + other, JoinedTiles(deep, second))
        for one, deep in enumerate(_of_a_row(depthwise, core)[:_TILES])
        for other, second in enumerate(list(point)[:_TILES])
    ]
    return [tiles for _, tiles in sorted(pairs, key=lambda placed: placed[0])]


def rank_chains(
    full: ConvShape,
    depthwise: ConvShape,
    pointwise: ConvShape,
    core: CoreModel,
    *,
    pair_lanes: Collection[int] = (),
) -> list[JoinedTiles]:
    """Return tiles for all three, each of one row, the most promising together first.

    Most depends on those of the first. Its best tile alone need not be the best in rows, so the best two of each number
    of vectors are tried.
    """
    of_vectors: dict[int, list[Tile]] = {}
    for tile in dict.fromkeys(
        replace(
            tile,
            order=LoopOrder.CHANNELS_OUTSIDE,
            padding=PaddingSource.TESTED,
            prefetch=False,
        )
        for tile in _of_a_row(full, core)
    ):
        of_vectors.setdefault(tile.vectors, []).append(tile)
    first = [
        tiles[place] for place in (0, 1) for tiles in of_vectors.values() if place < len(tiles)
    ]
    pairs = rank_pairs(depthwise, pointwise, core, pair_lanes=pair_lanes)
    placed = [
        (one + 2 * other, replace(tiles, full=tile))
        for one, tile in enumerate(first)
        for other, tiles in enumerate(pairs)
    ]
    return [tiles for _, tiles in sorted(placed, key=lambda placed: placed[0])]


def _of_a_row(shape: ConvShape, core: CoreModel, pair_lanes: Collection[int] = ()) -> list[Tile]:
    ranked = rank_tiles(shape, core, pair_lanes=pair_lanes)
    return [tile for tile in ranked if tile.rows == 1 and not tile.flat]


def schedule_joined(module: Any, tiles: JoinedTiles, *, dots: Mapping[int, str] = NO_DOTS) -> Any:
    """Return a schedule of `module` for one core with `tiles`."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = _blocks(schedule)
    assert blocks is not None, "propose_joined says whether there are such convolutions"
    depthwise = shape_of_sums(schedule, blocks.depthwise)
    assert depthwise is not None, "propose_joined says whether they are convolutions"
    for block in (*blocks.depthwise.before, *blocks.depthwise.after[:-1]):
        schedule.compute_inline(block)
    sums = tile_sums(schedule, blocks.pointwise, tiles.pointwise, threads=1)
    _, row, *_ = schedule.get_loops(blocks.pointwise.sums)
    written = blocks.depthwise.after[-1]
    schedule.compute_at(written, row, preserve_unit_loops=True)
    _in_tiles(schedule, blocks.depthwise.sums, written, tiles.depthwise)
    if blocks.full is not None:
        assert tiles.full is not None, "each convolution has a tile"
        _rows_as_needed(schedule, blocks.full, depthwise, row, tiles.full)
    in_pairs(schedule, sums, tiles.pointwise, dots)
    return schedule


def _rows_as_needed(
    schedule: Any, full: ReductionBlocks, depthwise: ConvShape, row: Any, tile: Tile
) -> None:
    """Have the full convolution compute what a run of `row` reads, the rows that the run before left excepted."""
    loaded = copied_inputs(schedule, full.sums) if tile.inputs > 1 else None
    for block in (*full.before, *full.after[:-1]):
        schedule.compute_inline(block)
    written = full.after[-1]
    schedule.compute_at(written, row, preserve_unit_loops=True)
    *_, rows, _, _ = schedule.get_loops(written)
    kept = depthwise.kernel_height - depthwise.stride
    # Of an image that is smaller than the kernel fewer are read.
    if kept > 0 and extent(schedule, rows) == depthwise.kernel_height:
        mark_rows(schedule, row, rows, kept)
    _in_tiles(schedule, full.sums, written, tile, loaded)


def _in_tiles(schedule: Any, sums: Any, written: Any, tile: Tile, loaded: Any = None) -> None:
    """Have `written`, a part of an image, computed from `sums` in tiles of one row, the weights packed.

    `loaded` is the block that copies the inputs of a step, if the tile takes several.
    """
    *_, x, channel = schedule.get_loops(written)
    x_tile, x_pixel = schedule.split(x, [None, tile.columns])
    slice_, vector, lane = schedule.split(channel, [None, tile.vectors, tile.lanes])
    outside = [slice_, x_tile] if tile.order is LoopOrder.CHANNELS_OUTSIDE else [x_tile, slice_]
    schedule.reorder(*outside, x_pixel, vector, lane)
    for loop in (x_pixel, vector):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    schedule.compute_at(sums, outside[-1], preserve_unit_loops=True)
    *around, x_pixel, channel, kernel_y, kernel_x, inputs = schedule.get_loops(sums)
    vector, lane = schedule.split(channel, [None, tile.lanes])
    step, input_lane = schedule.split(inputs, [None, tile.inputs])
    schedule.reorder(kernel_y, kernel_x, step, input_lane, x_pixel, vector, lane)
    if loaded is not None:
        load_inputs(schedule, loaded, step, len(around) + 3)
    schedule.unroll(input_lane)
    for loop in (x_pixel, vector):
        schedule.unroll(loop)
    if extent(schedule, kernel_y) * extent(schedule, kernel_x) > 1:
        for loop in (kernel_y, kernel_x, step):
            schedule.unroll(loop)
    schedule.vectorize(lane)
    start_in_registers(schedule, sums, kernel_y, len(around))
    pack_in_slices(schedule, sums, tile)


def _blocks(schedule: Any) -> _Joined | None:
    """Return the blocks of a kernel with two or three that sum, element-wise ones between; None for any other."""
    blocks = kernel_blocks(schedule)
    sums = [at for at, block in enumerate(blocks) if REDUCTION in kinds(schedule, block)]
    if len(sums) not in (2, 3):
        return None
    *_, first, second = sums
    between, read = blocks[first + 1 : second], []
    if between and elements(schedule, between[-1]) < elements(schedule, blocks[first]):
        # The pointwise convolution reads the first channels alone.
        *between, selected = between
        read = [selected]
    pointwise = ReductionBlocks(read, blocks[second], blocks[second + 1 :])
    if len(sums) == 2:
        depthwise = ReductionBlocks(blocks[:first], blocks[first], between)
        return _Joined(depthwise, pointwise) if between else None
    full = sums[0]
    # The last of these is the padding of the depthwise convolution.
    *wide, padding = blocks[full + 1 : first] or [None]
    if not wide or not between:
        return None
    return _Joined(
        ReductionBlocks([padding], blocks[first], between),
        pointwise,
        ReductionBlocks(blocks[:full], blocks[full], wide),
    )
