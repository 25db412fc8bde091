"""Schedules for the convolutions of mobile networks: a register tile, and loops around it.

MetaSchedule's generic space leaves a convolution's sums in memory and hopes that LLVM moves them to registers, which it
seldom does. Here they are in registers by construction: the sums of one tile (`tiles.py`) live in a small buffer on the
stack whose indices are all constants once the loops around them are unrolled. Pointwise, depthwise, grouped by one, and
full convolutions have the same seven loops, and so one schedule. It is written with MetaSchedule's own
instructions: its trace is a tuning record like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from tvm_mnas.compiler.core.dots import STORED, TERMS, know_dots
from tvm_mnas.compiler.core.prefetch import mark
from tvm_mnas.compiler.core.target import core_count, core_dots, core_model
from tvm_mnas.compiler.schedules.blocks import (
    REDUCTION,
    SPATIAL,
    STACK,
    ReductionBlocks,
    applicable,
    extent,
    inline_after,
    kinds,
    pack_weights,
    reduction_blocks,
    start_in_registers,
    sums_dtype,
    vectorize_output,
)
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder, PaddingSource, Tile, rank_tiles

NO_DOTS: Mapping[int, str] = MappingProxyType({})
_UNROLLED_INPUTS = 4


def propose_convolutions(module: Any, target: str) -> Iterator[Any]:
    """Yield schedules of `module` for `target` (its JSON text), the most promising first.

    None if it is no convolution that a tile fits.
    """
    shape = conv_shape(module)
    if shape is None:
        return
    threads = core_count(target)
    dots = core_dots(target)
    tiles = rank_tiles(shape, core_model(target, dtype=sums_dtype(module)), pair_lanes=dots)
    yield from applicable(
        partial(schedule_tile, module, tile, threads=threads, dots=dots) for tile in tiles
    )


def conv_shape(module: Any) -> ConvShape | None:
    """Return the extents of the convolution that `module` computes, None if it computes something else."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = reduction_blocks(schedule)
    return None if blocks is None else shape_of_sums(schedule, blocks)


def shape_of_sums(schedule: Any, blocks: ReductionBlocks) -> ConvShape | None:
    """Return the extents of the convolution in `blocks.sums`, None if these sums are of something else."""
    if not _convolves(schedule, blocks.sums):
        return None
    _, height, width, channels, kernel_height, kernel_width, inputs = (
        extent(schedule, loop) for loop in schedule.get_loops(blocks.sums)
    )
    buffers = [region.source for region in schedule.get(blocks.sums).reads]
    image, weights = buffers[-2:]
    if [int(size) for size in weights.shape] != [kernel_height, kernel_width, inputs, channels]:
        return None
    stride = (int(image.shape[1]) - kernel_height) // max(height - 1, 1) if height > 1 else 1
    return ConvShape(
        height=height,
        width=width,
        channels=channels,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        inputs=inputs,
        groups=int(image.shape[3]) // inputs,
        stride=stride,
        padded=any(_pads(schedule, block) for block in blocks.before),
        weight_bytes=np.dtype(str(weights.dtype)).itemsize,
        pairs=str(weights.dtype) == str(image.dtype) == STORED
        and int(image.shape[3]) == inputs
        and inputs % TERMS == 0,
    )


def schedule_tile(
    module: Any, tile: Tile, *, threads: int, dots: Mapping[int, str] = NO_DOTS
) -> Any:
    """Return a schedule of the convolution `module` with `tile`, its weights packed a slice of channels at a time.

    The outermost loop is parallel where `threads` is above 1. `dots` are the core's intrinsics for pairs of inputs.
    """
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = reduction_blocks(schedule)
    assert blocks is not None, "conv_shape says whether there is a convolution"
    in_pairs(schedule, tile_sums(schedule, blocks, tile, threads=threads), tile, dots)
    return schedule


@dataclass(frozen=True, slots=True)
class TiledSums:
    """What `in_pairs` has left to do: the block that starts the sums, and the loop through the inputs of a pair."""

    zeros: Any
    term: Any = None


def tile_sums(schedule: Any, blocks: ReductionBlocks, tile: Tile, *, threads: int) -> TiledSums:
    """Schedule the convolution in `blocks.sums`, and the blocks around it, with `tile` and packed weights.

    Where the tile is of pairs, `in_pairs` has to follow when nothing else is left to schedule.
    """
    convolution = blocks.sums
    # Before what precedes is inlined: a cast to the type of the sums then is of whole vectors.
    loaded = copied_inputs(schedule, convolution) if tile.inputs > 1 else None
    padding = _inline_before(schedule, blocks, tile)
    output = inline_after(schedule, blocks)
    if tile.flat:
        _flatten(schedule, convolution, output)
        image, pixel, channel, kernel_y, kernel_x, inputs = schedule.get_loops(convolution)
        line, one = schedule.split(pixel, [None, tile.columns])
        around, pixels = [line], [one]
    else:
        image, y, x, channel, kernel_y, kernel_x, inputs = schedule.get_loops(convolution)
        y_tile, y_pixel = schedule.split(y, [None, tile.rows])
        x_tile, x_pixel = schedule.split(x, [None, tile.columns])
        around, pixels = [y_tile, x_tile], [y_pixel, x_pixel]
    slice_, vector, lane = schedule.split(channel, [None, tile.vectors, tile.lanes])
    term = None
    if tile.pairs:
        inputs, term = schedule.split(inputs, [None, TERMS])
    outside = [slice_, *around] if tile.order is LoopOrder.CHANNELS_OUTSIDE else [*around, slice_]
    steps = [kernel_y, kernel_x, inputs]
    if tile.inputs > 1:
        step, input_lane = schedule.split(inputs, [None, tile.inputs])
        steps = [kernel_y, kernel_x, step, input_lane]
    schedule.reorder(
        image, *outside, *steps, *pixels, vector, *([term] if tile.pairs else []), lane
    )
    schedule.reverse_compute_at(output, outside[-1])
    if tile.inputs > 1:
        load_inputs(schedule, loaded, step, 1 + len(outside) + 3)
        schedule.unroll(input_lane)
    if tile.prefetch and threads == 1:
        mark(schedule, slice_, around, steps[2])
    depth = 1 + len(outside)
    if not tile.pairs:
        schedule.vectorize(lane)
    for loop in (*pixels, vector):
        schedule.unroll(loop)
    if extent(schedule, kernel_y) * extent(schedule, kernel_x) > 1:
        schedule.unroll(kernel_y)
        schedule.unroll(kernel_x)
        if extent(schedule, inputs) <= _UNROLLED_INPUTS:
            schedule.unroll(inputs)
    vectorize_output(schedule, output, depth, tile.lanes)
    if padding is not None:
        _vectorize_copy(schedule, padding, tile.lanes)
    if threads > 1:
        # Before the sums get a second writer: TVM proves loops parallel from whole reductions only.
        schedule.parallel(schedule.fuse(image, *outside[:-1]))
        depth -= len(outside) - 1
    if tile.flat and (threads == 1 or outside[-1] is line):
        # The remainder becomes code of its own, and the tests of what is in the image are gone.
        schedule.annotate(line, "pragma_loop_partition_hint", 1)
    zeros = start_in_registers(schedule, convolution, kernel_y, depth)
    pack_in_slices(schedule, convolution, tile)
    return TiledSums(zeros, term)


def _flatten(schedule: Any, convolution: Any, output: Any) -> None:
    """Turn rows and columns of the sums and of `output` into one line of pixels."""
    width = extent(schedule, schedule.get_loops(convolution)[2])
    schedule.transform_layout(convolution, ("write", 0), lambda n, y, x, c: (n, y * width + x, c))
    schedule.transform_block_layout(
        convolution, lambda n, y, x, c, ky, kx, i: (n, y * width + x, c, ky, kx, i)
    )
    schedule.transform_block_layout(output, lambda n, y, x, c: (n, y * width + x, c))


def pack_in_slices(schedule: Any, convolution: Any, tile: Tile) -> None:
    """Have the weights packed a slice of channels at a time, in it those of a pair of inputs side by side."""
    channels = tile.channels
    pack_weights(
        schedule,
        convolution,
        (lambda y, x, i, o: (o // channels, y, x, i // TERMS, o % channels, i % TERMS))
        if tile.pairs
        else (lambda y, x, i, o: (o // channels, y, x, i, o % channels)),
    )


def in_pairs(schedule: Any, sums: TiledSums, tile: Tile, dots: Mapping[int, str]) -> None:
    """Have two inputs taken by one instruction where the `tile` is of pairs; the block of the sums is gone then."""
    if tile.pairs:
        know_dots()
        schedule.vectorize(schedule.get_loops(sums.zeros)[-1])
        schedule.tensorize(sums.term, dots[tile.lanes])


def copied_inputs(schedule: Any, convolution: Any) -> Any:
    """Have the inputs copied before they are multiplied; return the block that does."""
    images = len(schedule.get(convolution).reads) - 2
    return schedule.cache_read(convolution, images, STACK, [convolution])


def load_inputs(schedule: Any, loaded: Any, step: Any, depth: int) -> None:
    """Have `loaded` copy a step's inputs, the loop `step` at `depth`, as vectors, one for each pixel."""
    schedule.compute_at(loaded, step)
    *pixels, lanes = schedule.get_loops(loaded)[depth:]
    schedule.vectorize(lanes)
    for loop in pixels:
        schedule.unroll(loop)


def _convolves(schedule: Any, sums: Any) -> bool:
    """Whether the block `sums` has the loops of a convolution, and no others around them."""
    return (
        kinds(schedule, sums) == [SPATIAL] * 4 + [REDUCTION] * 3
        and len(schedule.get_loops(sums)) == 7
    )


def _pads(schedule: Any, block: Any) -> bool:
    return "if_then_else" in str(schedule.get(block))


def _inline_before(schedule: Any, blocks: ReductionBlocks, tile: Tile) -> Any:
    """Inline what precedes the convolution; return the block that copies the padded image, if one stays."""
    kept = None
    for block in blocks.before:
        if tile.padding is PaddingSource.COPIED and _pads(schedule, block):
            kept = block
        else:
            schedule.compute_inline(block)
    return kept


def _vectorize_copy(schedule: Any, block: Any, lanes: int) -> None:
    channels = schedule.get_loops(block)[-1]
    if extent(schedule, channels) % lanes == 0:
        _, lane = schedule.split(channels, [None, lanes])
        schedule.vectorize(lane)
