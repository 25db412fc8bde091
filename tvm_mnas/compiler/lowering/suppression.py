"""Non-maximum suppression as one kernel, made for a single core: what costs most is one look at each score.

The best pairs of an anchor and a class are kept in a heap whose root is the worst of them. What enters it costs most,
so that a bound is found first: the best score of each anchor, by vectors, and of these that of the last one that could
be among the best pairs. Whole anchors are then passed over. What is in the heap is sorted in place and gone through
greedily against the boxes that stay, of which there are few. Nothing is allocated that depends on an image.

TVM has an operator of its own (relax.vision.all_class_non_max_suppression) that sorts the scores of every class.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, te
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from tvm_mnas.models.detection.suppression import NO_CLASS, ROW, SuppressionRule, threshold_of

_LANES = 16
"""Floats that are compared at once: a vector of AVX-512, four of NEON."""
_OPAQUE = 8
"""The operator pattern that FuseOps leaves alone."""
_SCHEDULED = "tirx.is_scheduled"
KERNEL = "suppress"
_TINY = 1.1754943508222875e-38
"""The smallest normal float32, by which no union is divided that has no area."""


def suppression_kernel(
    images: int, anchors: int, classes: int, rule: SuppressionRule, *, logits: bool = False
) -> Any:
    """Return the kernel that computes `models.detection.suppression.suppress`.

    It takes boxes (N,A,4) and scores (N,A,C), float32, and is marked as one that is not to be scheduled.
    """
    boxes = te.placeholder((images, anchors, 4), name="boxes", dtype="float32")
    scores = te.placeholder((images, anchors, classes), name="scores", dtype="float32")
    most = min(rule.candidates, anchors * classes)
    detections = te.extern(
        [(images, rule.total, ROW)],
        [boxes, scores],
        lambda ins, outs: _Suppression(ins, outs, most, rule, logits).code(),
        dtype="float32",
        name=KERNEL,
    )
    function = te.create_prim_func([boxes, scores, detections])
    # As a block inside of a root, which passes of TVM look for.
    root = s_tir.SBlock([], [], [], "root", function.body)
    function = function.with_body(s_tir.SBlockRealize([], True, root))
    # Under a symbol of its own it would be kept for others, beside the copy that the network calls.
    function = function.without_attr("global_symbol")
    return function.with_attrs(
        {
            "tirx.noalias": True,
            _SCHEDULED: True,
            "op_pattern": _OPAQUE,
        }
    )


def is_scheduled(function: Any) -> bool:
    """Whether a kernel has its schedule: from a record, or because it was written down with its loops, as here."""
    return bool(function.attrs and function.attrs.get(_SCHEDULED, 0))


class _Cell:
    """One number that changes."""

    def __init__(self, dtype: str) -> None:
        self._buffer = T.buffer_proxy(T.alloc_buffer((1,), dtype, scope="local"))

    def get(self) -> Any:
        return self._buffer[0]

    def set(self, value: Any) -> None:
        self._buffer[0] = value


class _Suppression:
    """The code, written down step by step; a pair is class * anchors + anchor: the smaller comes first in a tie."""

    def __init__(self, ins: Any, outs: Any, most: int, rule: SuppressionRule, logits: bool) -> None:
        self._ins, self._outs = ins, outs
        self._logits = logits
        self._threshold = T.float32(threshold_of(rule, logits=logits))
        self._most, self._rule = most, rule
        self._images, self._anchors, self._classes = (int(one) for one in ins[1].shape)

    def code(self) -> Any:
        with IRBuilder() as builder:
            self._boxes, self._scores = (T.buffer_proxy(one) for one in self._ins)
            self._rows = T.buffer_proxy(self._outs[0])
            with T.serial(0, self._images) as image:
                most, total = self._most, self._rule.total
                self._heap = _local((most,), "float32")
                self._pairs = _local((most,), "int32")
                self._areas = _local((total,), "float32")
                self._of_class = _local((self._classes,), "int32")
                self._count, self._kept, self._at, self._child = (_Cell("int32") for _ in range(4))
                self._going = _Cell("bool")
                self._bound = _Cell("float32")
                self._bests = _local((self._anchors,), "float32")
                self._fill_heap(image)
                self._sort_heap()
                self._go_through(image)
                self._clear_rest(image)
            return builder.get()

    def _fill_heap(self, image: Any) -> None:
        """Leave the best pairs in the heap, the worst of them at its root."""
        self._bound.set(self._threshold)
        self._find_bests(image)
        if self._anchors > self._most:
            # So many anchors have a pair each that is as good as the root then.
            self._count.set(0)
            with T.serial(0, self._anchors) as anchor:
                self._offer(self._bests[anchor], anchor)
        self._count.set(0)
        with (
            T.serial(0, self._anchors) as anchor,
            _when(self._bests[anchor] >= self._bound.get()),
            T.serial(0, self._classes) as label,
        ):
            self._offer(self._scores[image, anchor, label], label * self._anchors + anchor)

    def _find_bests(self, image: Any) -> None:
        """Find the best score of each anchor."""
        best = _Cell("float32")
        lanes = _local((_LANES,), "float32")
        whole = self._classes // _LANES
        with T.serial(0, self._anchors) as anchor:
            best.set(self._scores[image, anchor, 0])
            if whole:
                with T.vectorized(0, _LANES) as lane:
                    lanes[lane] = self._scores[image, anchor, lane]
                with T.serial(1, whole) as step, T.vectorized(0, _LANES) as lane:
                    score = self._scores[image, anchor, step * _LANES + lane]
                    lanes[lane] = _larger(lanes[lane], score)
                with T.serial(0, _LANES) as lane:
                    best.set(_larger(best.get(), lanes[lane]))
            with T.serial(whole * _LANES, self._classes) as label:
                best.set(_larger(best.get(), self._scores[image, anchor, label]))
            self._bests[anchor] = best.get()

    def _offer(self, score: Any, pair: Any) -> None:
        """Put a pair into the heap if it is good enough."""
        with _when(score >= self._bound.get()), T.If(self._count.get() < self._most):
            with T.Then():
                self._add(score, pair)
            with T.Else():
                self._replace(score, pair)

    def _add(self, score: Any, pair: Any) -> None:
        """Put a pair into a heap that is not full: up from its end as long as it is worse than what is above."""
        with _when(score > self._threshold):
            at, heap, pairs = self._at, self._heap, self._pairs
            at.set(self._count.get())
            self._count.set(self._count.get() + 1)
            self._going.set(at.get() > 0)
            with T.While(self._going.get()):
                above = (at.get() - 1) // 2
                with T.If(_better(heap[above], pairs[above], score, pair)):
                    with T.Then():
                        heap[at.get()] = heap[above]
                        pairs[at.get()] = pairs[above]
                        at.set(above)
                        self._going.set(at.get() > 0)
                    with T.Else():
                        self._going.set(T.bool(False))
            heap[at.get()] = score
            pairs[at.get()] = pair
            with _when(self._count.get() == self._most):
                self._bound.set(heap[0])

    def _replace(self, score: Any, pair: Any) -> None:
        """Put a pair in the place of the root of a full heap, if it is better."""
        with _when(_better(score, pair, self._heap[0], self._pairs[0])):
            self._sink(score, pair, T.int32(self._most))
            self._bound.set(self._heap[0])

    def _sink(self, score: Any, pair: Any, size: Any) -> None:
        """Put a pair into a heap of `size` from its root downwards, whose pair is gone."""
        at, child, heap, pairs = self._at, self._child, self._heap, self._pairs
        at.set(0)
        self._going.set(size > 1)
        with T.While(self._going.get()):
            child.set(2 * at.get() + 1)
            with (
                _when(child.get() + 1 < size),
                _when(
                    _better(
                        heap[child.get()],
                        pairs[child.get()],
                        heap[child.get() + 1],
                        pairs[child.get() + 1],
                    )
                ),
            ):
                child.set(child.get() + 1)
            with T.If(_better(score, pair, heap[child.get()], pairs[child.get()])):
                with T.Then():
                    heap[at.get()] = heap[child.get()]
                    pairs[at.get()] = pairs[child.get()]
                    at.set(child.get())
                    self._going.set(2 * at.get() + 1 < size)
                with T.Else():
                    self._going.set(T.bool(False))
        heap[at.get()] = score
        pairs[at.get()] = pair

    def _sort_heap(self) -> None:
        """Order the pairs in the heap, the best first."""
        score, pair = _Cell("float32"), _Cell("int32")
        count = self._count.get()
        with T.serial(0, count - 1) as step:
            last = count - 1 - step
            score.set(self._heap[last])
            pair.set(self._pairs[last])
            self._heap[last] = self._heap[0]
            self._pairs[last] = self._pairs[0]
            self._sink(score.get(), pair.get(), last)

    def _go_through(self, image: Any) -> None:
        """Write the rows of the pairs that stay."""
        rows, kept, rule = self._rows, self._kept, self._rule
        with T.serial(0, self._classes) as label:
            self._of_class[label] = 0
        kept.set(0)
        at, other, stays, area = _Cell("int32"), _Cell("int32"), _Cell("bool"), _Cell("float32")
        box = [_Cell("float32") for _ in range(4)]
        at.set(0)
        with T.While(tvm.tirx.all(at.get() < self._count.get(), kept.get() < rule.total)):
            pair = self._pairs[at.get()]
            label, anchor = pair // self._anchors, pair % self._anchors
            for side, cell in enumerate(box):
                cell.set(self._boxes[image, anchor, side])
            left, top, right, bottom = (cell.get() for cell in box)
            area.set(_extent(left, right) * _extent(top, bottom))
            stays.set(self._of_class[label] < rule.per_class)
            other.set(0)
            with T.While(tvm.tirx.all(stays.get(), other.get() < kept.get())):
                one = other.get()
                with _when(rows[image, one, 5] == tvm.tirx.Cast("float32", label)):
                    shared = _extent(
                        _larger(left, rows[image, one, 0]), _smaller(right, rows[image, one, 2])
                    ) * _extent(
                        _larger(top, rows[image, one, 1]), _smaller(bottom, rows[image, one, 3])
                    )
                    union = area.get() + self._areas[one] - shared
                    overlap = shared / _larger(union, T.float32(_TINY))
                    stays.set(overlap <= T.float32(rule.overlap_threshold))
                other.set(one + 1)
            with _when(stays.get()):
                for side, cell in enumerate(box):
                    rows[image, kept.get(), side] = cell.get()
                score = self._heap[at.get()]
                rows[image, kept.get(), 4] = T.sigmoid(score) if self._logits else score
                rows[image, kept.get(), 5] = tvm.tirx.Cast("float32", label)
                self._areas[kept.get()] = area.get()
                self._of_class[label] = self._of_class[label] + 1
                kept.set(kept.get() + 1)
            at.set(at.get() + 1)

    def _clear_rest(self, image: Any) -> None:
        with T.serial(0, self._rule.total - self._kept.get()) as step:
            row = self._kept.get() + step
            for column in range(ROW - 1):
                self._rows[image, row, column] = T.float32(0)
            self._rows[image, row, ROW - 1] = T.float32(NO_CLASS)


def _local(shape: tuple[int, ...], dtype: str) -> Any:
    return T.buffer_proxy(T.alloc_buffer(shape, dtype, scope="global"))


def _better(score: Any, pair: Any, than: Any, than_pair: Any) -> Any:
    """Whether a pair comes before another."""
    return tvm.tirx.any(score > than, tvm.tirx.all(score == than, pair < than_pair))


def _extent(low: Any, high: Any) -> Any:
    return _larger(high - low, T.float32(0))


def _larger(one: Any, other: Any) -> Any:
    return tvm.tirx.max(one, other)


def _smaller(one: Any, other: Any) -> Any:
    return tvm.tirx.min(one, other)


class _when:
    """A branch that is taken where `condition` holds."""

    def __init__(self, condition: Any) -> None:
        self._frames = (T.If(condition), T.Then())

    def __enter__(self) -> None:
        for frame in self._frames:
            frame.__enter__()

    def __exit__(self, *error: Any) -> None:
        for frame in reversed(self._frames):
            frame.__exit__(*error)
