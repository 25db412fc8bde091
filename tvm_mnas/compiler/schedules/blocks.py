"""What schedules written by hand have in common: the blocks of a kernel around the one that sums, and steps on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SPATIAL = 0
"""The type of an iteration variable that the output has (tirx.IterVar.DataPar)."""
REDUCTION = 2
"""The type of an iteration variable that is summed over (tirx.IterVar.CommReduce)."""

STACK = "global"
"""The scope of sums and inputs that are to live in registers.

TVM has a buffer of this scope and less than a kilobyte on the stack, where LLVM turns what constants index into
registers. One of any other scope is on the heap: every sum is written down there once more.
"""


@dataclass(frozen=True, slots=True)
class ReductionBlocks:
    """The blocks of a kernel with one that sums: `sums`, those `before` it and those `after` it, in order."""

    before: list[Any]
    sums: Any
    after: list[Any]


def kernel_blocks(schedule: Any) -> list[Any]:
    """Return the blocks of a kernel that is one function, in order; none where it is more."""
    functions = [variable.name_hint for variable, _ in schedule.mod.functions_items()]
    if functions != ["main"]:
        return []
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def reduction_blocks(schedule: Any) -> ReductionBlocks | None:
    """Return the kernel's blocks around the one that sums, None where none does or several do.

    None too where the output has more elements than there are sums, as behind a padding: computed with the sums that
    it reads, tile by tile, what reads none of them would never be written.
    """
    blocks = kernel_blocks(schedule)
    sums = [index for index, block in enumerate(blocks) if REDUCTION in kinds(schedule, block)]
    if len(sums) != 1:
        return None
    (at,) = sums
    if elements(schedule, blocks[-1]) > elements(schedule, blocks[at]):
        return None
    return ReductionBlocks(blocks[:at], blocks[at], blocks[at + 1 :])


def elements(schedule: Any, block: Any) -> int:
    """Return how many elements `block` computes."""
    return math.prod(
        int(iteration.dom.extent)
        for iteration in schedule.get(block).iter_vars
        if int(iteration.iter_type) == SPATIAL
    )


def kinds(schedule: Any, block: Any) -> list[int]:
    """Return the types of the iteration variables of `block`."""
    return [int(iteration.iter_type) for iteration in schedule.get(block).iter_vars]


def extent(schedule: Any, loop: Any) -> int:
    """Return how often `loop` runs."""
    return int(schedule.get(loop).extent)


def sums_dtype(module: Any) -> str:
    """Return the type of the sums of `module`, which has one block that sums."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    blocks = reduction_blocks(schedule)
    assert blocks is not None, "only what sums is asked for the type of its sums"
    return written_dtype(schedule, blocks.sums)


def output_dtype(module: Any) -> str:
    """Return the type of what the kernel `module` writes last."""
    import tvm.s_tir

    schedule = tvm.s_tir.Schedule(module)
    return written_dtype(schedule, kernel_blocks(schedule)[-1])


def written_dtype(schedule: Any, block: Any) -> str:
    """Return the type of what `block` writes."""
    return str(schedule.get(block).writes[0].source.dtype)


def inline_after(schedule: Any, blocks: ReductionBlocks) -> Any:
    """Inline what follows the sums into the last block; return that block."""
    if not blocks.after:
        # The sums are the output; those under way go to a buffer of their own, copied at the end.
        return schedule.cache_write(blocks.sums, 0, STACK)
    for block in blocks.after[:-1]:
        schedule.compute_inline(block)
    return blocks.after[-1]


def vectorize_output(schedule: Any, block: Any, depth: int, lanes: int) -> None:
    """Unroll the loops of `block` below `depth`, the innermost in vectors."""
    *pixels, channels = schedule.get_loops(block)[depth:]
    vector, lane = schedule.split(channels, [None, lanes])
    schedule.vectorize(lane)
    for loop in (*pixels, vector):
        schedule.unroll(loop)


def start_in_registers(schedule: Any, sums: Any, first: Any, depth: int) -> Any:
    """Set the sums to what they begin with before the loop `first`, the loops below `depth` unrolled but the vector.

    Returns the block that does.
    """
    zeros = schedule.decompose_reduction(sums, first)
    for loop in schedule.get_loops(zeros)[depth:-1]:
        schedule.unroll(loop)
    return zeros


def pack_weights(schedule: Any, sums: Any, packed: Any) -> None:
    """Have the last operand of `sums` laid out ahead as the index map `packed` says."""
    weights = len(schedule.get(sums).reads) - 1
    copied = schedule.cache_read(sums, weights, "global")
    schedule.annotate(copied, "meta_schedule.layout_rewrite_preproc", True)
    schedule.transform_layout(sums, ("read", weights), packed)


def applicable(attempts: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Yield the schedules that `attempts` make, in their order; one that does not fit the kernel costs only itself.

    A block that cannot be inlined, or loops that others do not have, show only when TVM is asked.
    """
    import tvm.s_tir

    for attempt in attempts:
        try:
            schedule = attempt()
        except tvm.s_tir.ScheduleError:
            continue
        yield schedule
