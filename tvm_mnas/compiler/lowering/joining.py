"""A depthwise convolution and the pointwise one behind it as one kernel, where the image between them is large.

Each by itself, the first writes that image and the second reads it: beyond the second cache both wait for memory. In
one kernel it is made row by row (`schedules/joined.py`). Others stay apart, since more networks share their kernels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm.s_tir
from tvm import relax

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of
from tvm_mnas.compiler.schedules.blocks import kernel_blocks
from tvm_mnas.compiler.schedules.convolution import conv_shape
from tvm_mnas.cores.model import CoreModel


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two kernels' calls, the second of which alone reads the `image` that the first returns."""

    first: Any
    second: Any
    image: Any


def join_depthwise(module: Any, core: CoreModel) -> Any:
    """Return `module`, after FuseTIR, with each such pair of kernels as one, where `core` would not hold the image."""
    main = module["main"]
    bindings = [one for block in main.body.blocks for one in block.bindings]
    pairs = _pairs(module, bindings, main, core)
    if not pairs:
        return module
    builder = relax.BlockBuilder(module)
    joined: dict[tuple[str, str], Any] = {}
    gone = {pair.image for pair in pairs.values()}
    kept = []
    for binding in bindings:
        if binding.var in gone:
            continue
        pair = pairs.get(binding.var)
        if pair is not None:
            names = (pair.first.args[0].name_hint, pair.second.args[0].name_hint)
            if names not in joined:
                joined[names] = builder.add_func(_joined(pair), _name(names))
            arguments = [*pair.first.args[1], *_others(pair)]
            binding = relax.VarBinding(binding.var, relax.Call(joined[names], arguments))
        kept.append(binding)
    body = relax.SeqExpr([relax.DataflowBlock(kept)], main.body.body)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    builder.update_func(module.get_global_var("main"), function)
    return relax.transform.FuseTIR()(builder.finalize())


def _pairs(module: Any, bindings: Sequence[Any], main: Any, core: CoreModel) -> dict[Any, _Pair]:
    """Return the pairs to join by the variable of what the second returns."""
    reads = Counter(
        variable
        for value in (*(one.value for one in bindings), main.body.body)
        for variable in _variables(value)
    )
    large = {
        one.var: one.value
        for one in bindings
        if _is_kernel(one.value)
        and reads[one.var] == 1
        and _size_bytes(one.var) > core.second_cache_bytes
        and _is_depthwise(module[one.value.args[0]])
    }
    found = {}
    for binding in bindings:
        if not _is_kernel(binding.value) or not large:
            continue
        first, *_ = binding.value.args[1]
        if first in large and _is_pointwise(module[binding.value.args[0]]):
            found[binding.var] = _Pair(large[first], binding.value, first)
    return found


def _variables(value: Any) -> list[Any]:
    """Return the variables that `value` reads, one as often as it does."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [variable for field in value.fields for variable in _variables(field)]
    if isinstance(value, relax.Call):
        return [variable for argument in value.args for variable in _variables(argument)]
    return list(relax.analysis.free_vars(value))


def _is_kernel(value: Any) -> bool:
    return operator_of(value) == KERNEL_CALL and len(value.args[1]) > 1


def _size_bytes(variable: Any) -> int:
    if not isinstance(variable.ty, relax.TensorType):
        return 0
    shape = [int(extent) for extent in variable.ty.shape]
    return math.prod(shape) * np.dtype(str(variable.ty.dtype)).itemsize


def _is_depthwise(function: Any) -> bool:
    shape = conv_shape(tvm.IRModule({"main": function}))
    return shape is not None and shape.depthwise and shape.taps > 1


def _is_pointwise(function: Any) -> bool:
    """Whether `function` is a pointwise convolution of its first argument, which it reads for nothing else."""
    module = tvm.IRModule({"main": function})
    shape = conv_shape(module)
    if shape is None or shape.padded or not shape.taps == shape.stride == shape.groups == 1:
        return False
    image = function.params[0]
    if [int(extent) for extent in image.shape] != [1, shape.height, shape.width, shape.inputs]:
        return False
    schedule = tvm.s_tir.Schedule(module)
    reads = (
        region.source for block in kernel_blocks(schedule) for region in schedule.get(block).reads
    )
    return len([source for source in reads if source.same_as(image)]) == 1


def _others(pair: _Pair) -> list[Any]:
    """Return what the second kernel reads besides the image."""
    return list(pair.second.args[1])[1:]


def _joined(pair: _Pair) -> Any:
    """Return both kernels as a function of which FuseTIR makes one kernel."""
    first, second = pair.first, pair.second
    arguments = [*first.args[1], *_others(pair)]
    parameters = [relax.Var(f"p{at}", argument.ty) for at, argument in enumerate(arguments)]
    count = len(first.args[1])
    image = relax.DataflowVar("image", first.ty_args[0])
    output = relax.Var("output", second.ty_args[0])
    calls = [
        relax.VarBinding(
            image,
            relax.call_tir(first.args[0], relax.Tuple(parameters[:count]), first.ty_args[0]),
        ),
        relax.VarBinding(
            output,
            relax.call_tir(
                second.args[0], relax.Tuple([image, *parameters[count:]]), second.ty_args[0]
            ),
        ),
    ]
    body = relax.SeqExpr([relax.DataflowBlock(calls)], output)
    function = relax.Function(parameters, body, second.ty_args[0], is_pure=True)
    return function.with_attr("Primitive", True)


def _name(names: tuple[str, str]) -> str:
    return "_".join(["fused", *(name.removeprefix("fused_") for name in names)])
