"""Kernels that wait for memory, joined with others: a chain of calls becomes one, where each alone reads the last's.

A depthwise convolution and the pointwise one behind it, where the image between them is large: by itself the first
writes that image and the second reads it, and beyond the second cache both wait. In one kernel it is made row by row
(`schedules/joined.py`). So with the full convolution before it, where that writes such an image. Others stay apart,
since more networks share their kernels.

A network's end from its last pointwise convolution on, where the classifier's weights are beyond the second cache: they
come while that convolution computes (`schedules/head.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm.s_tir
from tvm import relax

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of, reads_in
from tvm_mnas.compiler.schedules.blocks import kernel_blocks
from tvm_mnas.compiler.schedules.convolution import conv_shape
from tvm_mnas.compiler.schedules.head import is_head
from tvm_mnas.cores.model import CoreModel

_LONGEST_END = 5
"""Kernels of a network's end: convolution, mean, what reshapes it, classifier, and one to spare."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Calls of kernels, each but the first of which alone reads what the one before returns, as its first argument.

    Those values are `between` them.
    """

    calls: tuple[Any, ...]
    between: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the kernels."""
        return tuple(str(call.args[0].name_hint) for call in self.calls)

    def arguments(self) -> list[Any]:
        """Return what all of them read, but what is between them."""
        first, *others = self.calls
        return [*first.args[1], *(one for call in others for one in list(call.args[1])[1:])]


def join_kernels(module: Any, core: CoreModel) -> Any:
    """Return `module`, after FuseTIR, with each such chain of kernels as one, where `core` would wait for memory."""
    calls = _Calls(module)
    chains = _rows(calls, core)
    end = _end(calls)
    # What is part of one chain is not part of anything else.
    if end is not None and end[1].between[0] not in chains:
        variable, chain = end
        joined = _with_joined(module, {**chains, variable: chain})
        if is_head(tvm.IRModule({"main": joined[_name(chain.names)]}), core):
            return joined
    return _with_joined(module, chains) if chains else module


class _Calls:
    """The kernels' calls of a network, by the variables of what they return, and how often each value is read."""

    def __init__(self, module: Any) -> None:
        self.module = module
        main = module["main"]
        bindings = [one for block in main.body.blocks for one in block.bindings]
        self.made = {
            one.var: one.value for one in bindings if operator_of(one.value) == KERNEL_CALL
        }
        self.reads = reads_in(main)

    def function(self, call: Any) -> Any:
        """Return the kernel that is called."""
        return self.module[call.args[0]]

    def before(self, call: Any) -> Any:
        """Return the variable that `call` reads first, if a kernel made it and nobody else reads it, else None."""
        first, *_ = call.args[1]
        return first if first in self.made and self.reads[first] == 1 else None


def _rows(calls: _Calls, core: CoreModel) -> dict[Any, _Chain]:
    """Return what is computed row by row, by the variable of what it returns.

    A depthwise convolution with the pointwise one behind it, and with the full one before it where that writes more
    than the second cache holds.
    """
    found: dict[Any, _Chain] = {}
    for variable, last in calls.made.items():
        image = calls.before(last)
        if image is None:
            continue
        depthwise = calls.made[image]
        read = calls.before(depthwise)
        first = None if read is None else calls.made[read]
        # What ends a chain begins no other, as where depthwise and pointwise ones take turns.
        large = first is not None and read not in found and _is_beyond(read, core)
        if not large and not _is_beyond(image, core):
            continue
        if not _is_depthwise(calls.function(depthwise)) or not _is_pointwise(calls.function(last)):
            continue
        if large and _is_full(calls.function(first)):
            found[variable] = _Chain((first, depthwise, last), (read, image))
        elif _is_beyond(image, core):
            found[variable] = _Chain((depthwise, last), (image,))
    return found


def _is_beyond(image: Any, core: CoreModel) -> bool:
    return _size_bytes(image) > core.second_cache_bytes


def _end(calls: _Calls) -> tuple[Any, _Chain] | None:
    """Return the variable of the last dense layer's output and the chain to it from the last pointwise convolution."""
    for variable, call in reversed(calls.made.items()):
        if not isinstance(variable.ty, relax.TensorType) or len(variable.ty.shape) != 2:
            continue
        chain = [call]
        between: list[Any] = []
        while len(chain) < _LONGEST_END and (image := calls.before(chain[0])) is not None:
            chain.insert(0, calls.made[image])
            between.insert(0, image)
            if _is_pointwise(calls.function(chain[0])):
                return variable, _Chain(tuple(chain), tuple(between))
    return None


def _with_joined(module: Any, chains: Mapping[Any, _Chain]) -> Any:
    """Return `module` with each of `chains`, by the variable of what it returns, as one kernel."""
    main = module["main"]
    builder = relax.BlockBuilder(module)
    joined: dict[tuple[str, ...], Any] = {}
    gone = {image for chain in chains.values() for image in chain.between}
    kept = []
    for block in main.body.blocks:
        for binding in block.bindings:
            if binding.var in gone:
                continue
            chain = chains.get(binding.var)
            if chain is not None:
                if chain.names not in joined:
                    joined[chain.names] = builder.add_func(_joined(chain), _name(chain.names))
                call = relax.Call(joined[chain.names], chain.arguments())
                binding = relax.VarBinding(binding.var, call)
            kept.append(binding)
    body = relax.SeqExpr([relax.DataflowBlock(kept)], main.body.body)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    builder.update_func(module.get_global_var("main"), function)
    return relax.transform.FuseTIR()(builder.finalize())


def _size_bytes(variable: Any) -> int:
    if not isinstance(variable.ty, relax.TensorType):
        return 0
    shape = [int(extent) for extent in variable.ty.shape]
    return math.prod(shape) * np.dtype(str(variable.ty.dtype)).itemsize


def _is_full(function: Any) -> bool:
    shape = conv_shape(tvm.IRModule({"main": function}))
    return shape is not None and shape.groups == 1


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
    *pixels, channels = (int(extent) for extent in image.shape)
    # Of channels that fill up a vector it may read fewer than there are.
    if pixels != [1, shape.height, shape.width] or channels < shape.inputs:
        return False
    schedule = tvm.s_tir.Schedule(module)
    reads = (
        region.source for block in kernel_blocks(schedule) for region in schedule.get(block).reads
    )
    return len([source for source in reads if source.same_as(image)]) == 1


def _joined(chain: _Chain) -> Any:
    """Return a function of all kernels of `chain`, of which FuseTIR makes one kernel."""
    parameters: list[Any] = []
    bindings: list[Any] = []
    for call in chain.calls:
        own = list(call.args[1])[1 if bindings else 0 :]
        added = [
            relax.Var(f"p{len(parameters) + at}", argument.ty) for at, argument in enumerate(own)
        ]
        parameters += added
        read = [bindings[-1].var, *added] if bindings else added
        kind = relax.Var if call is chain.calls[-1] else relax.DataflowVar
        bindings.append(
            relax.VarBinding(
                kind(f"value{len(bindings)}", call.ty_args[0]),
                relax.call_tir(call.args[0], relax.Tuple(read), call.ty_args[0]),
            )
        )
    output = bindings[-1].var
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], output)
    function = relax.Function(parameters, body, output.ty, is_pure=True)
    return function.with_attr("Primitive", True)


def _name(names: Sequence[str]) -> str:
    return "_".join(["fused", *(name.removeprefix("fused_") for name in names)])
