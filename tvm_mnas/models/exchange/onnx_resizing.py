"""ONNX's Resize and Upsample as torch's: by torch's own where it has the way, else by gathering along each axis."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tvm_mnas.models.exchange.building import UnsupportedError, Value
from tvm_mnas.models.exchange.onnx_call import Call
from tvm_mnas.models.exchange.onnx_layers import require_images

_TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic"}
_TORCH_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners")
_CUBIC_COEFFICIENT = -0.75

_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
}


def resizing(call: Call) -> Value:
    """Resize and Upsample of the pixels, by constant scales or sizes."""
    source = call.input(0)
    require_images(source, "a resizing")
    sizes, scales = _new_size(call, source)
    mode = call.text("mode", "nearest")
    first = call.operator == "Upsample" or call.opset < 11
    coordinates = call.text("coordinate_transformation_mode", "half_pixel")
    rounding = call.text("nearest_mode", "round_prefer_floor")
    if first:
        coordinates, rounding = "asymmetric", "floor"
    if call.number("antialias", 0) or call.number("exclude_outside", 0):
        raise UnsupportedError("antialias and exclude_outside")
    whole = all(scale == int(scale) for scale in scales)
    if mode == "nearest":
        if whole and (coordinates, rounding) == ("asymmetric", "floor"):
            return call.graph.function(F.interpolate, source, tuple(sizes), None, "nearest")
        return _nearest(call, source, sizes, scales, coordinates, rounding)
    if (
        mode not in _TORCH_MODES
        or call.number("cubic_coeff_a", _CUBIC_COEFFICIENT) != _CUBIC_COEFFICIENT
    ):
        raise UnsupportedError(f"mode {mode!r}, or its coefficient")
    # torch takes the scale from the sizes, which round it.
    exact = all(
        int(old * scale) == old * scale
        for old, scale in zip(source.example.shape[2:], scales, strict=True)
    )
    if coordinates in _TORCH_COORDINATES and exact and 1 not in sizes:
        return call.graph.function(
            F.interpolate,
            source,
            tuple(sizes),
            None,
            _TORCH_MODES[mode],
            coordinates == "align_corners",
        )
    if mode != "linear":
        raise UnsupportedError(f"{mode}, {coordinates}")
    for axis in (0, 1):
        source = _linear(call, source, axis, sizes[axis], scales[axis], coordinates)
    return source


def _nearest(
    call: Call,
    source: Value,
    sizes: list[int],
    scales: list[float],
    coordinates: str,
    rounding: str,
) -> Value:
    if rounding not in _ROUNDINGS:
        raise UnsupportedError(f"nearest_mode {rounding!r}")
    for axis in (0, 1):
        old = int(source.example.shape[2 + axis])
        places = _ROUNDINGS[rounding](_places(old, sizes[axis], scales[axis], coordinates))
        index = places.long().clamp(0, old - 1)
        source = call.graph.function(torch.index_select, source, 2 + axis, Value(index))
    return source


def _linear(
    call: Call, source: Value, axis: int, size: int, scale: float, coordinates: str
) -> Value:
    old = int(source.example.shape[2 + axis])
    places = _places(old, size, scale, coordinates).clamp(0, old - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=old - 1)
    shape = (-1, 1) if axis == 0 else (-1,)
    share = (places - low).float().reshape(shape)
    parts = []
    for index, weight in ((low, 1 - share), (high, share)):
        picked = call.graph.function(torch.index_select, source, 2 + axis, Value(index))
        parts.append(call.graph.function(operator.mul, picked, Value(weight)))
    return call.graph.function(operator.add, *parts)


def _places(old: int, size: int, scale: float, coordinates: str) -> Tensor:
    """Return where each of `size` pixels lies among the `old` ones, by the specification of Resize."""
    at = torch.arange(size, dtype=torch.float64)
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "align_corners":
        return at * (old - 1) / (size - 1) if size > 1 else at * 0
    if coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and size > 1):
        return (at + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel":
        return at * 0
    raise UnsupportedError(f"coordinate_transformation_mode {coordinates!r}")


def _new_size(call: Call, source: Value) -> tuple[list[int], list[float]]:
    """Return the new height and width, and by how much each grows."""
    shape = [int(size) for size in source.example.shape]
    if call.operator == "Upsample" or call.opset < 11:
        scales, sizes = call.setting("scales", 1), None
    else:
        scales, sizes = call.setting("", 2), call.setting("", 3)
    if scales:
        sizes = [math.floor(size * scale) for size, scale in zip(shape, scales, strict=False)]
    elif sizes:
        scales = [new / size for new, size in zip(sizes, shape, strict=False)]
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if (
        not scales
        or not sizes
        or len(sizes) != len(shape)
        or sizes[:2] != shape[:2]
        or policy != "stretch"
    ):
        raise UnsupportedError(
            "only both axes of pixels can be resized, by constant scales or sizes"
        )
    return [int(size) for size in sizes[2:]], [float(scale) for scale in scales[2:]]
