"""The kernel of an operator, made once in a process for arguments of the same shapes and types.

Making one out of a tensor expression takes a millisecond, and a network has hundreds of operators, most of which the
candidate before had too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tvm import relax
from tvm.ir import Op
from tvm_ffi import StructuralKey

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of
from tvm_mnas.compiler.core.code import REMEMBERED

Legalize = Callable[[Any, Any], Any]
"""From a block builder and an operator's call to a call of a kernel, which depends on the call alone."""

_TensorType = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Kernel:
    function: Any
    name: str
    output: Any


def once(legalize: Legalize) -> Legalize:
    """Return what does as `legalize`, but looks up the kernel of a call whose like it has met."""

    def legalized(builder: Any, call: Any) -> Any:
        types = [_tensor_type(argument) for argument in call.args]
        known = [one for one in types if one is not None]
        if len(known) < len(types):
            return legalize(builder, call)
        attributes = None if call.attrs is None else StructuralKey(call.attrs)
        kernel = _kernel(legalize, str(call.op.name), attributes, tuple(known))
        if kernel is None:
            return legalize(builder, call)
        return relax.call_tir(
            builder.add_func(kernel.function, kernel.name), list(call.args), kernel.output
        )

    return legalized


@lru_cache(maxsize=REMEMBERED)
def as_tvm_does(operator: str) -> Legalize:
    """Return TVM's own way with calls of `operator`."""
    legalize: Legalize = Op.get(operator).get_attr("FLegalize")
    return legalize


@lru_cache(maxsize=REMEMBERED)
def _kernel(
    legalize: Legalize,
    operator: str,
    attributes: StructuralKey | None,
    types: tuple[_TensorType, ...],
) -> _Kernel | None:
    """Return the kernel for arguments of these types, None if it takes others than them."""
    arguments = [
        relax.Var(f"p{at}", relax.TensorType(shape, dtype))
        for at, (dtype, shape) in enumerate(types)
    ]
    builder = relax.BlockBuilder()
    attrs = None if attributes is None else attributes.key
    call = legalize(builder, builder.normalize(relax.Call(Op.get(operator), arguments, attrs)))
    if operator_of(call) != KERNEL_CALL or len(call.args) > 2:
        return None
    taken = list(call.args[1])
    if len(taken) != len(arguments):
        return None
    if not all(one.same_as(other) for one, other in zip(taken, arguments, strict=True)):
        return None
    name = str(call.args[0].name_hint)
    return _Kernel(builder.get()[name], name, call.ty_args[0])


def _tensor_type(value: Any) -> _TensorType | None:
    """Return the type of an argument, None if it is no tensor, or a number, which may become part of the kernel."""
    if not isinstance(value.ty, relax.TensorType) or not value.ty.shape:
        return None
    return str(value.ty.dtype), tuple(int(extent) for extent in value.ty.shape)
