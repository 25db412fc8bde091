"""ONNX's operators that move values about as torch's: reshaping, slicing, joining, gathering; and reductions."""

from __future__ import annotations

import operator

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from tvm_mnas.models.exchange.building import UnsupportedError, Value
from tvm_mnas.models.exchange.onnx_call import Call

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def flatten(call: Call) -> Value:
    """Flatten: always to two axes."""
    source = call.input(0)
    axis = int(call.number("axis", 1))
    if axis == 1:
        return call.graph.module(nn.Flatten(1), source)
    rows = 1
    for size in source.example.shape[: axis % (source.example.dim() + 1)]:
        rows *= int(size)
    return call.graph.function(torch.reshape, source, (rows, -1))


def reshape(call: Call) -> Value:
    """Reshape to a constant shape."""
    source = call.input(0)
    if call.opset < 5:
        shape = call.numbers("shape", ())
    else:
        shape = [int(size) for size in call.constant(1).tolist()]
    old = list(source.example.shape)
    if not call.number("allowzero", 0):
        shape = [old[axis] if size == 0 else size for axis, size in enumerate(shape)]
    rows = source.example.reshape(shape)
    if len(old) > 2 and rows.shape == source.example.flatten(1).shape:
        return call.graph.module(nn.Flatten(1), source)
    return call.graph.function(torch.reshape, source, tuple(shape))


def transpose(call: Call) -> Value:
    """Transpose."""
    source = call.input(0)
    axes = call.numbers("perm", tuple(reversed(range(source.example.dim()))))
    return call.graph.function(torch.permute, source, tuple(axes))


def squeeze(call: Call) -> Value:
    """Squeeze."""
    source = call.input(0)
    axes = call.setting("axes", 1)
    shape = list(source.example.shape)
    dropped = (
        [axis for axis, size in enumerate(shape) if size == 1]
        if axes is None
        else [int(axis) % len(shape) for axis in axes]
    )
    kept = tuple(size for axis, size in enumerate(shape) if axis not in dropped)
    return call.graph.function(torch.reshape, source, kept)


def unsqueeze(call: Call) -> Value:
    """Unsqueeze."""
    source = call.input(0)
    axes = call.setting("axes", 1) or []
    rank = source.example.dim() + len(axes)
    shape = list(source.example.shape)
    for axis in sorted(int(axis) % rank for axis in axes):
        shape.insert(axis, 1)
    return call.graph.function(torch.reshape, source, tuple(shape))


def concatenate(call: Call) -> Value:
    """Concat."""
    parts = tuple(value for value in call.inputs if value is not None)
    return call.graph.function(torch.cat, parts, int(call.number("axis", 1)))


def split(call: Call) -> tuple[Value, ...]:
    """Split, into parts of given sizes or alike."""
    source = call.input(0)
    axis = int(call.number("axis", 0)) % source.example.dim()
    extent = int(source.example.shape[axis])
    sizes = call.setting("split", 1)
    if sizes is None:
        each = -(-extent // call.outputs)
        sizes = [min(each, extent - each * part) for part in range(call.outputs)]
    parts: list[Value] = []
    start = 0
    for size in sizes:
        parts.append(call.graph.function(torch.narrow, source, axis, start, int(size)))
        start += int(size)
    return tuple(parts)


def cut(call: Call) -> Value:
    """Slice, with constant bounds and steps forward."""
    source = call.input(0)
    rank = source.example.dim()
    starts, ends = call.setting("starts", 1) or [], call.setting("ends", 2) or []
    axes = call.setting("axes", 3) or list(range(len(starts)))
    steps = call.setting("steps", 4) or [1] * len(starts)
    if min(steps, default=1) < 1:
        raise UnsupportedError("a step backwards")
    slices = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = int(source.example.shape[int(axis) % rank])
        # The largest numbers stand for the end.
        low, high = max(int(start), -extent), min(int(end), extent)
        slices[int(axis) % rank] = slice(low, high, int(step))
    return call.graph.function(operator.getitem, source, tuple(slices))


def gather(call: Call) -> Value:
    """Gather by constant indices."""
    source, indices = call.input(0), call.constant(1)
    axis = int(call.number("axis", 0)) % source.example.dim()
    extent = int(source.example.shape[axis])
    indices = torch.where(indices < 0, indices + extent, indices)
    if indices.dim() == 0:
        return call.graph.function(torch.select, source, axis, int(indices))
    if indices.dim() != 1:
        raise UnsupportedError("indices of more than one axis")
    return call.graph.function(torch.index_select, source, axis, Value(indices.long()))


def expand(call: Call) -> Value:
    """Expand to a constant shape."""
    source = call.input(0)
    shape = np.broadcast_shapes(tuple(source.example.shape), tuple(call.constant(1).tolist()))
    return call.graph.function(torch.broadcast_to, source, tuple(shape))


def repeat(call: Call) -> Value:
    """Tile."""
    counts = tuple(int(count) for count in call.constant(1).tolist())
    return call.graph.function(torch.tile, call.input(0), counts)


def depth_to_space(call: Call) -> Value:
    """DepthToSpace, in both orders."""
    source, block = call.input(0), int(call.number("blocksize", 1))
    if call.text("mode", "DCR") == "CRD":
        return call.graph.module(nn.PixelShuffle(block), source)
    batch, channels, height, width = source.example.shape
    inner = channels // block**2
    parts = call.graph.function(torch.reshape, source, (batch, block, block, inner, height, width))
    moved = call.graph.function(torch.permute, parts, (0, 3, 4, 1, 5, 2))
    return call.graph.function(torch.reshape, moved, (batch, inner, height * block, width * block))


def mean(call: Call) -> Value:
    """ReduceMean; over the pixels it is a pooling."""
    source, axes, keeps = _reduction(call)
    if axes == (2, 3) and source.example.dim() == 4:
        pooled = call.graph.module(nn.AdaptiveAvgPool2d(1), source)
        return pooled if keeps else call.graph.module(nn.Flatten(1), pooled)
    return call.graph.function(torch.mean, source, axes, keeps)


def total(call: Call) -> Value:
    """ReduceSum."""
    source, axes, keeps = _reduction(call)
    return call.graph.function(torch.sum, source, axes, keeps)


def largest(call: Call) -> Value:
    """ReduceMax."""
    source, axes, keeps = _reduction(call)
    return call.graph.function(torch.amax, source, axes, keeps)


def least(call: Call) -> Value:
    """ReduceMin."""
    source, axes, keeps = _reduction(call)
    return call.graph.function(torch.amin, source, axes, keeps)


def softmax(call: Call) -> Value:
    """Softmax: before version 13 over all axes from its own on."""
    return _over_axis(call, torch.softmax)


def log_softmax(call: Call) -> Value:
    """LogSoftmax, as Softmax."""
    return _over_axis(call, torch.log_softmax)


def _over_axis(call: Call, function: object) -> Value:
    source = call.input(0)
    rank = source.example.dim()
    assert callable(function)
    if call.opset >= 13:
        return call.graph.function(function, source, int(call.number("axis", -1)) % rank)
    axis = int(call.number("axis", 1)) % rank
    if axis == rank - 1:
        return call.graph.function(function, source, axis)
    shape = tuple(source.example.shape)
    rows = call.graph.function(torch.reshape, source, (*shape[:axis], -1))
    return call.graph.function(torch.reshape, call.graph.function(function, rows, axis), shape)


def _reduction(call: Call) -> tuple[Value, tuple[int, ...], bool]:
    source = call.input(0)
    rank = source.example.dim()
    axes = call.setting("axes", 1)
    if axes is None and call.number("noop_with_empty_axes", 0):
        raise UnsupportedError("noop_with_empty_axes")
    chosen = sorted(range(rank) if not axes else (int(axis) % rank for axis in axes))
    return source, tuple(chosen), bool(call.number("keepdims", 1))


def converted(call: Call) -> Value:
    """Cast between the types that an image and its network have."""
    kind = _TYPES.get(int(call.number("to", 0)))
    source = call.input(0)
    if kind is None:
        raise UnsupportedError("a cast to a type without a counterpart")
    return source if source.example.dtype == kind else call.graph.function(_cast, source, kind)


def _cast(values: Tensor, kind: torch.dtype) -> Tensor:
    return values.to(kind)
