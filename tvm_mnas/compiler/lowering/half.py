"""A lowered network's arithmetic in half precision, between images and outputs that stay float32.

Values, weights and constants become float16. What a step would lose too much of stays in float32 between two casts: an
exponential, whose argument or result may be beyond 65504, and a softmax. The sums of convolutions and products are in
the type that is asked for; those of means and poolings, which may run over ten thousand pixels and then no longer
notice one more, are always in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from tvm import relax, topi

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of
from tvm_mnas.compiler.lowering.constants import rewritten
from tvm_mnas.cores.precision import Precision

Step = Callable[..., Any]
"""From tensors of TVM's expressions to another."""

_WIDE = "float32"
_SUMS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_IN_FLOAT32 = tuple(
    f"relax.{name}"
    for name in (
        *(
            "exp",
            "log",
            "log2",
            "log10",
            "log1p",
            "sqrt",
            "rsqrt",
            "sigmoid",
            "tanh",
            "erf",
            "power",
        ),
        *("sum", "variance", "std", "prod", "cumsum", "cumprod"),
        *("nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.softplus", "nn.selu"),
        *("nn.softmax", "nn.log_softmax"),
        *("nn.layer_norm", "nn.group_norm", "nn.instance_norm", "nn.rms_norm"),
        *("nn.avg_pool1d", "nn.avg_pool3d", "nn.adaptive_avg_pool1d", "nn.adaptive_avg_pool3d"),
    )
)


def to_half(module: Any, precision: Precision) -> Any:
    """Return `module`, whose values are float32, in the float16 of `precision`; it takes and returns what it did.

    The casts of its inputs and outputs are steps like any other, to be fused with what stands beside them.
    """
    # What is cast to the type that it has is bound to two names, which would keep kernels apart.
    return relax.transform.CanonicalizeBindings()(rewritten(module, _Halver(module, precision)))


@relax.expr_functor.mutator
class _Halver(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Any, precision: Precision) -> None:
        super().__init__(module)
        self._precision = precision
        self._outputs: Any = None
        self._wide: list[Any] = []

    def visit_function_(self, function: Any) -> Any:
        self._outputs = function.body.body
        self._wide = [one for one in function.params if _is_float(one, _WIDE)]
        return super().visit_function_(function)

    def visit_dataflow_block_(self, block: Any) -> Any:
        self.builder_._begin_dataflow_block()
        while self._wide:
            images = self._wide.pop()
            self.set_var_remap(images, self._emitted(images, self._precision.dtype))
        for binding in block.bindings:
            self.visit_binding(binding)
        return self.builder_._end_block()

    def visit_var_binding_(self, binding: Any) -> None:
        if not binding.var.same_as(self._outputs):
            super().visit_var_binding_(binding)
            return
        value = self.visit_expr(binding.value)
        if isinstance(value, relax.Tuple):
            outputs: Any = relax.Tuple([self._widened(one) for one in value.fields])
        else:
            outputs = self._widened(value)
        self.set_var_remap(binding.var, self.builder_.emit_output(outputs))

    def visit_generic_const_(self, constant: Any) -> Any:
        values = constant.value
        if not hasattr(values, "numpy") or str(values.dtype) != _WIDE:
            return constant
        return relax.const(_narrowed(values.numpy()), self._precision.dtype)

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = operator_of(call)
        if name is None:
            return call
        if name in _SUMS:
            sums = _with_attribute(call, "out_dtype", self._precision.accumulator)
            return self._narrow(sums)
        if name == KERNEL_CALL:
            # Code that was written for float32.
            arguments = [call.args[0], self._widened(call.args[1]), *call.args[2:]]
            return relax.Call(call.op, arguments, call.attrs, call.ty_args)
        if name in _IN_FLOAT32:
            arguments = [self._widened(argument) for argument in call.args]
            return self._narrow(relax.Call(call.op, arguments, call.attrs))
        for attribute in ("dtype", "out_dtype"):
            if str(getattr(call.attrs, attribute, None)) == _WIDE:
                return _with_attribute(call, attribute, self._precision.dtype)
        return call

    def _narrow(self, call: Any) -> Any:
        value = self.builder_.emit(call)
        return relax.op.astype(value, self._precision.dtype) if _is_float(value, _WIDE) else value

    def _widened(self, value: Any) -> Any:
        """Return `value` in float32 if it is of the network's type."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._widened(one) for one in value.fields])
        if not isinstance(value, relax.Var | tvm.ir.GenericConst):
            if not isinstance(value, relax.Call):
                return value
            value = self.builder_.emit(value)
        return self._emitted(value, _WIDE) if _is_float(value, self._precision.dtype) else value

    def _emitted(self, value: Any, dtype: str) -> Any:
        return self.builder_.emit(relax.op.astype(value, dtype))


def _narrowed(values: Any) -> Any:
    """Return `values` in float16; what is beyond its range is infinite, which a comparison of outputs finds."""
    # A mask's -3.4e38 is meant to be that.
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _is_float(value: Any, dtype: str) -> bool:
    return isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == dtype


def _with_attribute(call: Any, name: str, value: str) -> Any:
    """Return `call` with the attribute `name`, anything else as it is."""
    kind = type(call.attrs).__tvm_ffi_type_info__
    attributes = {field.name: getattr(call.attrs, field.name) for field in kind.fields}
    changed = tvm.ir.make_node(kind.type_key, **{**attributes, name: value})
    return relax.Call(call.op, call.args, changed)


def _mean(call: Any) -> Step:
    axes = call.attrs.axis
    extents = [int(extent) for extent in call.args[0].ty.shape]
    summed = range(len(extents)) if axes is None else [int(axis) for axis in axes]
    keeps = bool(call.attrs.keepdims)
    return lambda source: (
        topi.sum(source, list(summed), keeps) / math.prod(extents[axis] for axis in summed)
    )


def pooling(call: Any, *, kind: str = "avg") -> Step | None:
    """Return what a call of a pooling over windows, "avg" or "max", does; None where it is left to TVM."""
    attributes = call.attrs
    if attributes.out_layout != attributes.layout:
        # TVM's own legalization leaves such a call alone too.
        return None
    return lambda source: topi.nn.pool2d(
        source,
        kernel=attributes.pool_size,
        stride=attributes.strides,
        dilation=attributes.dilation,
        padding=attributes.padding,
        pool_type=kind,
        ceil_mode=attributes.ceil_mode,
        layout=attributes.layout,
        count_include_pad=attributes.count_include_pad,
    )


def _adaptive_pooling(call: Any) -> Step | None:
    attributes = call.attrs
    layout = str(attributes.layout)
    if attributes.out_layout != attributes.layout:
        return None
    extents = call.args[0].ty.shape
    size = attributes.output_size or [extents[layout.index(axis)] for axis in "HW"]
    return lambda source: topi.nn.adaptive_pool(source, size, "avg", layout)


MEANS: Mapping[str, Callable[[Any], Step | None]] = MappingProxyType(
    {
        "relax.mean": _mean,
        "relax.nn.avg_pool2d": pooling,
        "relax.nn.adaptive_avg_pool2d": _adaptive_pooling,
    }
)
"""What a call of a mean or a pooling does with its argument, in that one's type; None where it is left to TVM."""


def _legalize_mean(builder: Any, call: Any) -> Any:
    name = str(call.op.name)
    mean = MEANS[name](call)
    if mean is None:
        return call
    return builder.call_te(
        _in_float32(mean), call.args[0], primfunc_name_hint=name.rpartition(".")[2]
    )


def _in_float32(step: Step) -> Step:
    """Return `step` between two casts, which belong to its kernel: nothing is fused behind a sum that is alone."""
    return lambda source: topi.cast(step(topi.cast(source, _WIDE)), source.dtype)


HALF_MEANS = dict.fromkeys(MEANS, _legalize_mean)
"""How means and poolings of float16 become kernels: by sums in float32."""
