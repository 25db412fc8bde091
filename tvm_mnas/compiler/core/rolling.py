"""Rows of an image kept from one run of a loop to the next, in a kernel that computes them when they are needed.

Where a convolution reads another's rows as it goes, what it reads twice would be computed twice: TVM computes in each
run of the loop all that is read there. A schedule marks the loops for that, which its record keeps, and before it is
compiled rows that the run before left are skipped, in memory that holds as many as are read at a time and goes round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MARK = "tvm_mnas.rolling"
_AROUND = -1
"""The mark of the loop that goes through the rows. That of the loop through what a run reads is how many it keeps."""
_ROWS = 1
"""The axis of an image's rows."""


def mark_rows(schedule: Any, around: Any, rows: Any, kept: int) -> None:
    """Have `rows`, the loop that computes what a run of `around` reads of an image, leave out the first `kept` rows.

    They are the last ones of the run before. No loop between the two goes round more than once.
    """
    schedule.annotate(around, _MARK, _AROUND)
    schedule.annotate(rows, _MARK, kept)


def with_rolling_rows(module: Any) -> Any:
    """Return the scheduled `module` without what its marked loops would compute again."""
    import tvm
    from tvm import tirx

    return tvm.IRModule(
        {
            variable: _rolled(function) if isinstance(function, tirx.PrimFunc) else function
            for variable, function in module.functions_items()
        },
        attrs=module.attrs,
    )


@dataclass(frozen=True, slots=True)
class _Marked:
    """The marked loops of a kernel, the `image` whose rows they compute, and how many rows are in memory."""

    around: Any
    rows: Any
    image: Any

    @property
    def kept(self) -> int:
        return int(self.rows.annotations[_MARK])

    @property
    def held(self) -> int:
        """A power of two, so that a row's place is a matter of some bits."""
        return 1 << (int(self.rows.extent) - 1).bit_length()


def _rolled(function: Any) -> Any:
    marked = _marked(function)
    if marked is None:
        return function
    from tvm import tirx

    extents = list(marked.image.shape)
    extents[_ROWS] = tirx.const(marked.held, str(extents[_ROWS].ty))
    held = tirx.decl_buffer(extents, str(marked.image.dtype), marked.image.name)
    return function.with_body(_kept_outside(_replaced(function.body, marked, held), held))


def _marked(function: Any) -> _Marked | None:
    import tvm_ffi
    from tvm import tirx
    from tvm.ir.expr import TensorLoad

    loops: list[Any] = []

    def visit_loop(loop: Any) -> None:
        if _MARK in loop.annotations:
            loops.append(loop)

    tvm_ffi.structural_walk(function.body, (tirx.For, visit_loop), order="pre")
    if not loops:
        return None
    around, rows = loops
    written: list[Any] = []
    read: list[Any] = []
    tvm_ffi.structural_walk(
        rows.body,
        [
            (tirx.BufferStore, lambda store: written.append(store.buffer)),
            (TensorLoad, lambda load: read.append(load.source)),
        ],
    )
    # The sums under way are read again in the loop, the image only behind it.
    (image,) = (one for one in written if not any(one.same_as(other) for other in read))
    return _Marked(around, rows, image)


def _replaced(statement: Any, marked: _Marked, held: Any) -> Any:
    """Return `statement` with the image in `held`, and without the rows that are there already."""
    import tvm
    import tvm_ffi
    from tvm import s_tir, tirx
    from tvm.ir.expr import TensorLoad

    image = marked.image

    def place(indices: Any) -> list[Any]:
        found = list(indices)
        found[_ROWS] = tirx.floormod(found[_ROWS], held.shape[_ROWS])
        return found

    def load(node: Any) -> Any:
        return tirx.BufferLoad(held, place(node.indices)) if node.source.same_as(image) else node

    def store(node: Any) -> Any:
        if not node.buffer.same_as(image):
            return node
        return tirx.BufferStore(held, node.value, place(node.indices))

    def region(node: Any) -> Any:
        if not node.source.same_as(image):
            return node
        ranges = list(node.region)
        ranges[_ROWS] = tvm.ir.Range(0, held.shape[_ROWS])
        return tirx.BufferRegion(held, ranges)

    def block(node: Any) -> Any:
        return s_tir.SBlock(
            node.iter_vars,
            [region(one) for one in node.reads],
            [region(one) for one in node.writes],
            node.name_hint,
            node.body,
            node.init,
            [held if one.same_as(image) else one for one in node.alloc_buffers],
            node.match_buffers,
            node.annotations,
        )

    def loop(node: Any) -> Any:
        if _MARK not in node.annotations:
            return node
        body = node.body
        if node.annotations[_MARK] != _AROUND:
            new = tirx.any(marked.around.loop_var < 1, node.loop_var >= marked.kept)
            body = tirx.IfThenElse(new, body, None)
        annotations = {key: value for key, value in node.annotations.items() if key != _MARK}
        return tirx.For(
            node.loop_var,
            node.min,
            node.extent,
            node.kind,
            body,
            node.thread_binding,
            annotations,
            node.step,
        )

    return tvm_ffi.structural_map(
        statement,
        [
            (TensorLoad, load),
            (tirx.BufferStore, store),
            (s_tir.SBlock, block),
            (tirx.For, loop),
        ],
    )


def _kept_outside(root: Any, held: Any) -> Any:
    """Return the kernel's body `root` with a first store to `held` in front of all loops.

    TVM gives a buffer memory where all that uses it is: inside of the loop whose runs are to leave rows to each other.
    """
    import tvm
    from tvm import s_tir, tirx

    first = [tirx.IntImm("int64", 0)] * len(held.shape)
    store = tirx.BufferStore(held, tirx.const(0, str(held.dtype)), first)
    region = tirx.BufferRegion(held, [tvm.ir.Range.from_min_extent(at, 1) for at in first])
    start = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [region], "rows", store))
    block = root.block
    body = s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        tirx.SeqStmt([start, block.body]),
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    return s_tir.SBlockRealize(root.iter_values, root.predicate, body)
