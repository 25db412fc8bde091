"""Schedules for the kernels that sum and are no convolution: a classifier's product, poolings, means.

MetaSchedule's generic space leaves their sums in memory as it does a convolution's, or spreads one over the lanes of a
vector. Here a vector holds neighbouring channels, and the sums of some vectors stay in registers while all that they
sum over passes by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from tvm_mnas.compiler.core.target import core_count, core_model
from tvm_mnas.compiler.schedules.blocks import (
    REDUCTION,
    SPATIAL,
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
from tvm_mnas.compiler.schedules.tiles import vector_lengths
from tvm_mnas.cores.model import CoreModel

_LARGEST_BODY = 512
"""What is summed over is unrolled up to so many vectors in straight-line code."""
_COUNTS = 4
"""How many numbers of vectors are tried of each length."""


def propose_reductions(module: Any, target: str) -> Iterator[Any]:
    """Yield schedules of `module` for `target` (its JSON text), the most promising first.

    None if it is a convolution or sums along its vectors.
    """
    channels = _channels(module)
    if channels is None:
        return
    threads = core_count(target)
    ranked = rank_vectors(channels, core_model(target, dtype=sums_dtype(module)))
    yield from applicable(
        partial(schedule_reduction, module, vectors, lanes, threads=threads)
        for vectors, lanes in ranked
    )


def rank_vectors(channels: int, core: CoreModel) -> list[tuple[int, int]]:
    """Return numbers of vectors and their lanes that divide `channels`, the most promising first.

    Long vectors come first, and of these as many as keep the units busy.
    """
    ranked: list[tuple[int, int]] = []
    for lanes in vector_lengths(channels, core):
        counts = [
            count for count in range(1, core.registers - 1) if (channels // lanes) % count == 0
        ]
        counts.sort(
            key=lambda count: (count < core.sums_in_flight, abs(count - core.sums_in_flight))
        )
        ranked += [(count, lanes) for count in counts[:_COUNTS]]
    return ranked


def schedule_reduction(module: Any, vectors: int, lanes: int, *, threads: int) -> Any:
    """Return a schedule of `module` with the sums of `vectors` x `lanes` channels in registers.

    A product's weights are packed so many channels at a time. The outer loops are parallel where `threads` is above 1.
    """
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = reduction_blocks(schedule)
    assert blocks is not None, "propose_reductions asks for kernels that sum"
    sums = blocks.sums
    for block in blocks.before:
        schedule.compute_inline(block)
    output = inline_after(schedule, blocks)
    outside = kinds(schedule, sums).count(SPATIAL)
    loops = schedule.get_loops(sums)
    *rows, channel = loops[:outside]
    summed = loops[outside:]
    slice_, vector, lane = schedule.split(channel, [None, vectors, lanes])
    schedule.reorder(*rows, slice_, *summed, vector, lane)
    schedule.reverse_compute_at(output, slice_)
    schedule.vectorize(lane)
    schedule.unroll(vector)
    if vectors * math.prod(extent(schedule, loop) for loop in summed) <= _LARGEST_BODY:
        for loop in summed:
            schedule.unroll(loop)
    depth = len(rows) + 1
    vectorize_output(schedule, output, depth, lanes)
    if threads > 1:
        # Before the sums get a second writer: TVM proves loops parallel from whole reductions only.
        schedule.parallel(schedule.fuse(*rows, slice_))
        depth = 1
    start_in_registers(schedule, sums, summed[0], depth)
    if _has_weights(schedule, blocks):
        width = vectors * lanes
        pack_weights(schedule, sums, lambda i, o: (o // width, i, o % width))
    return schedule


def _channels(module: Any) -> int | None:
    """Return the extent of the sums' last axis, None where they are of another kind or read across that axis."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = reduction_blocks(schedule)
    if blocks is None:
        return None
    found = kinds(schedule, blocks.sums)
    outside = found.count(SPATIAL)
    summed = len(found) - outside
    loops = schedule.get_loops(blocks.sums)
    if (
        outside < 2
        or found != [SPATIAL] * outside + [REDUCTION] * summed
        or len(loops) != len(found)
    ):
        return None
    block = schedule.get(blocks.sums)
    channel = block.iter_vars[outside - 1].var
    if not block.reads[-1].region[-1].min.same_as(channel):
        return None
    # A convolution's sums over windows and inputs have tiles instead.
    if len(block.reads) > 1 and not _has_weights(schedule, blocks):
        return None
    return extent(schedule, loops[outside - 1])


def _has_weights(schedule: Any, blocks: ReductionBlocks) -> bool:
    """Whether the sums are products with a matrix that is known ahead."""
    function = schedule.mod["main"]
    matrix = schedule.get(blocks.sums).reads[-1].source
    return len(matrix.shape) == 2 and any(
        function.params[int(index)].same_as(matrix)
        for index in function.attrs.get("layout_free_buffers") or ()
    )
