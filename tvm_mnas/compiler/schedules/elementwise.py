"""Schedules for kernels that only go through their output once: scaling, gating, sums, copies.

MetaSchedule's generic space fuses all loops of such a kernel before it makes vectors, and so an operand with one value
a channel, a gate or a scale, is gathered value by value. Here the channels stay a loop of their own, and a vector lies
within them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from tvm_mnas.compiler.core.target import core_count, core_model
from tvm_mnas.compiler.schedules.blocks import (
    SPATIAL,
    applicable,
    extent,
    kernel_blocks,
    kinds,
    output_dtype,
)

_MOST_VECTORS = 4
_WIDTHS = 3
"""How many widths of a vector are tried."""
_LEAST_LANES = 4


def propose_elementwise(module: Any, target: str) -> Iterator[Any]:
    """Yield schedules of `module` for `target` (its JSON text), the widest vectors first.

    None if it sums, or has no channels to speak of.
    """
    channels = _channels(module)
    if channels is None:
        return
    threads = core_count(target)
    widths = vector_widths(channels, core_model(target, dtype=output_dtype(module)).lanes)
    yield from applicable(
        partial(schedule_elementwise, module, lanes, threads=threads) for lanes in widths
    )


def vector_widths(channels: int, lanes: int) -> list[int]:
    """Return the widths to try, widest first: divisors of `channels` of up to four vectors of `lanes`.

    A row of so many lanes is cut into vectors by LLVM.
    """
    divisors = [
        width
        for width in range(min(channels, _MOST_VECTORS * lanes), _LEAST_LANES - 1, -1)
        if channels % width == 0
    ]
    # Whole vectors first: they leave nothing over.
    whole = [width for width in divisors if width % lanes == 0]
    return [*whole, *(width for width in divisors if width % lanes)][:_WIDTHS]


def schedule_elementwise(module: Any, lanes: int, *, threads: int) -> Any:
    """Return a schedule of `module` in one pass over its output, `lanes` channels at a time.

    The rows are parallel where `threads` is above 1.
    """
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    *before, last = kernel_blocks(schedule)
    for block in before:
        schedule.compute_inline(block)
    *rows, channels = schedule.get_loops(last)
    row = schedule.fuse(*rows) if len(rows) > 1 else rows[0]
    _, lane = schedule.split(channels, [None, lanes])
    schedule.vectorize(lane)
    if threads > 1:
        schedule.parallel(row)
    return schedule


def _channels(module: Any) -> int | None:
    """Return the extent of the innermost loop of the last block, None where a block sums or there is one loop only."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = kernel_blocks(schedule)
    for block in blocks:
        if set(kinds(schedule, block)) != {SPATIAL}:
            return None
    if not blocks:
        return None
    loops = schedule.get_loops(blocks[-1])
    return extent(schedule, loops[-1]) if len(loops) > 1 else None
