"""Schedules for a network's end in one kernel: a pointwise convolution, the mean of its pixels, and the classifier.

A classifier does one multiply-add with each of its weights, a megabyte and more: by itself it waits for memory. What it
reads of the convolution is a mean of all pixels of a channel, so that its sums can go on with every slice of channels,
and the weights for that slice come while the convolution computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import Any

from tvm_mnas.compiler.core.prefetch import mark_also
from tvm_mnas.compiler.core.target import core_dots, core_model
from tvm_mnas.compiler.schedules.blocks import (
    REDUCTION,
    SPATIAL,
    ReductionBlocks,
    applicable,
    extent,
    kernel_blocks,
    kinds,
    pack_weights,
    written_dtype,
)
from tvm_mnas.compiler.schedules.convolution import NO_DOTS, in_pairs, shape_of_sums, tile_sums
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder, Tile, rank_tiles
from tvm_mnas.cores.model import CoreModel

_TILES = 16
"""How many tiles of the convolution are tried."""
_LEAST_LANES = 4
"""What a vector of the classifier's outputs has at least: 1,001 classes are no whole number of any."""
_MOST_VECTORS = 8
"""Of how many vectors of outputs the sums are in registers at a time."""
_POOLING = [SPATIAL] * 4 + [REDUCTION] * 2
_MEAN = [SPATIAL] * 2 + [REDUCTION] * 2
"""The iterations of a mean that forgets that there were pixels."""
_DENSE = [SPATIAL] * 2 + [REDUCTION]


@dataclass(frozen=True, slots=True)
class _Head:
    """The blocks of a head: the mean's sums, what makes of them what the classifier reads, its sums, and its output."""

    convolution: ReductionBlocks
    mean: Any
    features: list[Any]
    dense: Any
    output: Any
    shape: ConvShape
    classes: int
    parameter: int
    """The number of the classifier's weights among the kernel's parameters."""


def is_head(module: Any, core: CoreModel) -> bool:
    """Whether `module` ends a network in this way, its classifier's weights beyond the second cache of `core`."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    head = _head(schedule)
    if head is None or _lanes(head, core) < _LEAST_LANES:
        return False
    weights = schedule.get(head.dense).reads[-1].source
    item_bytes = head.shape.weight_bytes
    inputs, classes = (int(size) for size in weights.shape)
    return item_bytes * inputs * classes > core.second_cache_bytes


def propose_heads(module: Any, target: str) -> Iterator[Any]:
    """Yield schedules of `module` for one core of `target` (its JSON text), the most promising first.

    None if it is no head.
    """
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    head = _head(schedule)
    if head is None:
        return
    core = core_model(target, dtype=written_dtype(schedule, head.convolution.sums))
    dots = core_dots(target)
    tiles = dict.fromkeys(
        replace(tile, prefetch=True)
        for tile in rank_tiles(head.shape, core, pair_lanes=dots)
        if tile.order is LoopOrder.CHANNELS_OUTSIDE
    )
    lanes = _lanes(head, core)
    yield from applicable(
        partial(schedule_head, module, tile, lanes=lanes, dots=dots)
        for tile in list(tiles)[:_TILES]
    )


def schedule_head(module: Any, tile: Tile, *, lanes: int, dots: Mapping[int, str] = NO_DOTS) -> Any:
    """Return a schedule of `module` for one core: its convolution in `tile`, the classifier in vectors of `lanes`."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    head = _head(schedule)
    assert head is not None, "propose_heads says whether it is one"
    if tile.flat:
        _mean_of_a_line(schedule, head)
    sums = tile_sums(schedule, head.convolution, tile, threads=1)
    _, slice_, *_ = schedule.get_loops(head.convolution.sums)
    for block in head.features[:-1]:
        schedule.compute_inline(block)
    features = head.features[-1]
    for block in (head.mean, features, head.dense):
        schedule.reverse_compute_at(block, slice_, preserve_unit_loops=True)
    _mean_in_vectors(schedule, head.mean, tile.lanes)
    _in_vectors(schedule, features, tile.lanes)
    *_, one, outputs, inputs = schedule.get_loops(head.dense)
    vectors = _divisor(head.classes // lanes, _MOST_VECTORS)
    group, vector, lane = schedule.split(outputs, [None, vectors, lanes])
    schedule.reorder(one, group, inputs, vector, lane)
    schedule.unroll(vector)
    schedule.vectorize(lane)
    zeros = schedule.decompose_reduction(head.dense, slice_)
    _in_vectors(schedule, zeros, lanes)
    _in_vectors(schedule, head.output, lanes)
    channels, grouped = tile.channels, vectors * lanes
    pack_weights(
        schedule,
        head.dense,
        lambda i, o: (i // channels, o // grouped, i % channels, o % grouped),
    )
    mark_also(schedule, slice_, head.parameter)
    in_pairs(schedule, sums, tile, dots)
    return schedule


def _mean_of_a_line(schedule: Any, head: _Head) -> None:
    """Have the mean read the pixels as one line, and the convolution write them so.

    Otherwise TVM takes it for read what one tile of a line writes, which may be one row.
    """
    width = head.shape.width
    schedule.transform_layout(
        head.convolution.after[-1], ("write", 0), lambda n, y, x, c: (n, y * width + x, c)
    )
    # TVM counts the axes by the names of the parameters.
    line: Any = (
        (lambda n, y, x, c, row, column: (n, y, x, c, row * width + column))
        if kinds(schedule, head.mean) == _POOLING
        else (lambda n, c, row, column: (n, c, row * width + column))
    )
    schedule.transform_block_layout(head.mean, line)


def _mean_in_vectors(schedule: Any, mean: Any, lanes: int) -> None:
    pixels = kinds(schedule, mean).count(REDUCTION)
    *_, channel = schedule.get_loops(mean)[:-pixels]
    rest = schedule.get_loops(mean)[-pixels:]
    slice_, lane = schedule.split(channel, [None, lanes])
    schedule.reorder(slice_, *rest, lane)
    schedule.vectorize(lane)
    zeros = schedule.decompose_reduction(mean, rest[0])
    schedule.vectorize(schedule.get_loops(zeros)[-1])


def _in_vectors(schedule: Any, block: Any, lanes: int) -> None:
    *_, channel = schedule.get_loops(block)
    _, lane = schedule.split(channel, [None, lanes])
    schedule.vectorize(lane)


def _lanes(head: _Head, core: CoreModel) -> int:
    return gcd(head.classes, core.width)


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`."""
    return next(one for one in range(most, 0, -1) if number % one == 0)


def _head(schedule: Any) -> _Head | None:
    """Return the blocks of a kernel that is such an end of a network, None for any other."""
    blocks = kernel_blocks(schedule)
    sums = [at for at, block in enumerate(blocks) if REDUCTION in kinds(schedule, block)]
    if len(sums) != 3:
        return None
    convolution, mean, dense = sums
    before, after = blocks[:convolution], blocks[convolution + 1 : mean]
    features, last = blocks[mean + 1 : dense], blocks[dense + 1 :]
    if not after or not features or len(last) != 1:
        return None
    if (
        kinds(schedule, blocks[mean]) not in (_POOLING, _MEAN)
        or kinds(schedule, blocks[dense]) != _DENSE
    ):
        return None
    around = ReductionBlocks(before, blocks[convolution], after)
    shape = shape_of_sums(schedule, around)
    one, classes, inputs = (extent(schedule, loop) for loop in schedule.get_loops(blocks[dense]))
    if shape is None or not shape.taps == shape.stride == shape.groups == one == 1 or shape.padded:
        return None
    *_, channels, rows, columns = (
        extent(schedule, loop) for loop in schedule.get_loops(blocks[mean])
    )
    if (channels, rows, columns) != (inputs, shape.height, shape.width):
        return None
    if inputs != shape.channels:
        return None
    weights = schedule.get(blocks[dense]).reads[-1].source
    parameters = [
        at
        for at, one in enumerate(schedule.mod["main"].params)
        if one.same_as(weights) and [int(size) for size in one.shape] == [inputs, classes]
    ]
    if len(parameters) != 1:
        return None
    return _Head(
        convolution=around,
        mean=blocks[mean],
        features=features,
        dense=blocks[dense],
        output=last[0],
        shape=shape,
        classes=classes,
        parameter=parameters[0],
    )
