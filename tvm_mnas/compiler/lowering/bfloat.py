"""A lowered network's arithmetic in bfloat16: what convolutions and products read, and all that is kept for later.

Sums are in float32, and so is every other step: what one step makes for a single other goes there as it is, inside of
one kernel; what several read, and what convolutions do, is rounded to bfloat16. The network's images and its outputs
stay float32.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, te, tirx, topi

from tvm_mnas.compiler.core.calls import operator_of, reads_in
from tvm_mnas.compiler.core.dots import STORED, widened
from tvm_mnas.compiler.lowering.constants import rewritten
from tvm_mnas.compiler.lowering.half import MEANS, Step, pooling
from tvm_mnas.compiler.lowering.legalize import (
    OPAQUE,
    before_slice,
    before_transpose,
    first_channels,
    is_gate,
    transposed,
)

_WIDE = "float32"
_SLICE = "relax.strided_slice"
_POOLINGS = {"relax.nn.avg_pool2d": "avg", "relax.nn.max_pool2d": "max"}
_MOVES = ("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims")
"""What moves numbers and changes none."""
_SUMMED = 4
"""The operator pattern of what element-wise steps may follow in one kernel."""


def to_bfloat(module: Any) -> Any:
    """Return `module`, whose values are float32, in bfloat16; it takes and returns what it did."""
    return relax.transform.CanonicalizeBindings()(rewritten(module, _Rounder(module)))


def rounded(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return `values` in bfloat16, the nearest of them, ties to even, as the 16 bits that they are.

    What is beyond its range is infinite, and what is no number stays none.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), nearest).astype(np.uint16)


@relax.expr_functor.mutator
class _Rounder(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._outputs: Any = None
        self._reads: Counter[Any] = Counter()

    def visit_function_(self, function: Any) -> Any:
        self._outputs = function.body.body
        self._reads = reads_in(function)
        return super().visit_function_(function)

    def visit_var_binding_(self, binding: Any) -> None:
        value = self.visit_expr(binding.value)
        if binding.var.same_as(self._outputs):
            if isinstance(value, relax.Tuple):
                outputs: Any = relax.Tuple([self._widened(one) for one in value.fields])
            else:
                outputs = self._widened(value)
            self.set_var_remap(binding.var, self.builder_.emit_output(outputs))
            return
        made = self.builder_.emit(value)
        several = self._reads[binding.var] > 1
        self.set_var_remap(binding.var, self._rounded(made) if several else made)

    def visit_call_(self, call: Any) -> Any:
        # Arguments of both types are no operator's: TVM may not see them together.
        name = operator_of(call) or ""
        arguments = [self.visit_expr(one) for one in call.args]
        if name == "relax.nn.conv2d" and _is_of_images(call):
            return self._convolution(relax.Call(call.op, arguments, call.attrs))
        if name == "relax.matmul" and _is_dense(call):
            operands = [self._rounded(one) for one in arguments]
            return self._kernel(_dense, operands, "matmul", _SUMMED)
        if name == "relax.multiply" and any(is_gate(self.builder_, one, call) for one in arguments):
            return self._kernel(_between(topi.multiply), self._kept(arguments), "gate", OPAQUE)
        if name in _POOLINGS and (step := pooling(call, kind=_POOLINGS[name])) is not None:
            kind = f"{_POOLINGS[name]}_pool2d"
            return self._kernel(_behind(step), self._kept(arguments), kind, None)
        if name in MEANS and (step := MEANS[name](call)) is not None:
            kind = name.rpartition(".")[2]
            return self._kernel(_between(step), self._kept(arguments), kind, None)
        if name == _SLICE:
            arguments = [self._rounded(arguments[0]), *arguments[1:]]
        elif name not in _MOVES:
            arguments = [self._widened(one) for one in arguments]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    def _convolution(self, call: Any) -> Any:
        images, weights = call.args[0], self._rounded(call.args[1])
        attributes = call.attrs
        read = _as_it_is
        if (source := before_transpose(self.builder_, call)) is not None:
            images, read = source, _transposed
        elif (source := before_slice(self.builder_, call)) is not None:
            images, read = source, first_channels
        else:
            images = self._rounded(images)
        top, left, bottom, right = (int(extent) for extent in attributes.padding)

        def convolution(source: Any, weights: Any) -> Any:
            inputs = read(source, weights)
            if any((top, left, bottom, right)):
                zero = tirx.const(0, inputs.dtype)
                inputs = topi.nn.pad(inputs, [0, top, left, 0], [0, bottom, right, 0], zero)
            return _sums(
                inputs,
                weights,
                strides=[int(extent) for extent in attributes.strides],
                dilation=[int(extent) for extent in attributes.dilation],
                groups=int(attributes.groups),
            )

        return self._kernel(convolution, [images, weights], "conv2d", _SUMMED)

    def _kernel(self, function: Step, arguments: list[Any], name: str, pattern: int | None) -> Any:
        attributes = {} if pattern is None else {"op_pattern": pattern}
        return self.builder_.call_te(
            function, *arguments, primfunc_name_hint=name, primfunc_attrs=attributes
        )

    def _kept(self, values: list[Any]) -> list[Any]:
        """Return `values` as they are kept between kernels: in bfloat16, but for the network's own images."""
        return [
            one if self.builder_.lookup_binding(one) is None else self._rounded(one)
            for one in values
        ]

    def _rounded(self, value: Any) -> Any:
        """Return `value` in bfloat16 if it is in float32."""
        if not _is_float(value):
            return value
        if isinstance(value, tvm.ir.GenericConst):
            return relax.const(rounded(value.value.numpy()), STORED)
        return self.builder_.emit(self._kernel(_elementwise(_nearest), [value], "round", None))

    def _widened(self, value: Any) -> Any:
        """Return `value` in float32 if it is in bfloat16."""
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._widened(one) for one in value.fields])
        if not isinstance(value, relax.Var | relax.Call) or not isinstance(
            value.ty, relax.TensorType
        ):
            return value
        if str(value.ty.dtype) != STORED:
            return value
        return self.builder_.emit(self._kernel(_elementwise(widened), [value], "widen", None))


def _is_float(value: Any) -> bool:
    return isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == _WIDE


def _is_of_images(call: Any) -> bool:
    """Whether `call` convolves images with weights that are known, in the layouts that all convolutions have here."""
    attributes = call.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    return layouts == ("NHWC", "HWIO", "NHWC") and isinstance(call.args[1], tvm.ir.GenericConst)


def _is_dense(call: Any) -> bool:
    """Whether `call` multiplies rows, (...,K), with weights that are known, (K,O)."""
    weights = call.args[1]
    return isinstance(weights, tvm.ir.GenericConst) and len(weights.ty.shape) == 2


def _elementwise(step: Step) -> Step:
    return lambda source: te.compute(source.shape, lambda *at: step(source[at]))


def _behind(step: Step) -> Step:
    """Return `step`, which is of float32, of what may be bfloat16: nothing is fused in front of it."""
    return lambda *sources: step(*(_elementwise(_factor)(one) for one in sources))


def _between(step: Step) -> Step:
    """Return `step`, which is of float32, to bfloat16 too: for a kernel that nothing is fused with."""
    return lambda *sources: _elementwise(_nearest)(_behind(step)(*sources))


def _nearest(number: Any) -> Any:
    """Return the expression of a `number` in float32 as the nearest in bfloat16, ties to even."""
    bits = tirx.reinterpret("uint32", number)
    odd = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
    return ((bits + tirx.const(0x7FFF, "uint32") + odd) >> tirx.const(16, "uint32")).astype(STORED)


def _factor(number: Any) -> Any:
    return widened(number) if str(number.dtype) == STORED else number


def _sums(
    images: Any, weights: Any, *, strides: list[int], dilation: list[int], groups: int
) -> Any:
    """Return the convolution, (N,Y,X,O) in float32, of `images`, (N,H,W,C), and `weights`, (K,L,I,O), C = I groups."""
    batch, height, width, _ = images.shape
    *kernel, inputs, channels = weights.shape
    rows, columns = (
        (size - step * (taps - 1) - 1) // stride + 1
        for size, taps, stride, step in zip((height, width), kernel, strides, dilation, strict=True)
    )
    y_tap, x_tap = (
        te.reduce_axis((0, taps), name) for taps, name in zip(kernel, "kl", strict=True)
    )
    i = te.reduce_axis((0, inputs), "i")

    def sum_of(n: Any, y: Any, x: Any, o: Any) -> Any:
        row, column = y * strides[0] + y_tap * dilation[0], x * strides[1] + x_tap * dilation[1]
        first = 0 if groups == 1 else o // (channels // groups) * inputs
        product = _factor(images[n, row, column, first + i]) * _factor(weights[y_tap, x_tap, i, o])
        return te.sum(product, axis=[y_tap, x_tap, i])

    return te.compute((batch, rows, columns, channels), sum_of, name="conv2d")


def _dense(features: Any, weights: Any) -> Any:
    """Return the products, (...,O) in float32, of `features`, (...,K), and `weights`, (K,O)."""
    *rows, inputs = features.shape
    k = te.reduce_axis((0, inputs), "k")
    return te.compute(
        (*rows, weights.shape[1]),
        lambda *at: te.sum(_factor(features[(*at[:-1], k)]) * _factor(weights[k, at[-1]]), axis=k),
        name="matmul",
    )


def _as_it_is(images: Any, weights: Any) -> Any:
    return images


def _transposed(images: Any, weights: Any) -> Any:
    return transposed(images, images.dtype)
