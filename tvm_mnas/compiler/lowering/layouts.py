"""What TVM's ConvertLayout leaves in (N,C,H,W), moved to (N,H,W,C): no transpose stays in the middle of a network.

ConvertLayout brings convolutions, pooling and what stands between them to (N,H,W,C). Around an operator whose layout it
cannot tell, a gather or a padding, it transposes there and back, and leaves all that follows up to the next
convolution as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mnas.compiler.core.calls import operator_of
from tvm_mnas.compiler.lowering.constants import rewritten

_TO_NCHW = [0, 3, 1, 2]
_TO_NHWC = [0, 2, 3, 1]
_ELEMENTWISE = (
    "relax.add",
    "relax.multiply",
    "relax.subtract",
    "relax.divide",
    "relax.nn.relu",
    "relax.sigmoid",
    "relax.maximum",
    "relax.minimum",
)


def sink_transposes(module: Any) -> Any:
    """Return `module` with gathers, paddings, concatenations and what is elementwise in (N,H,W,C), where they can be.

    The transposes that nobody reads any more are gone.
    """
    moved = relax.transform.CanonicalizeBindings()(rewritten(module, _TransposeSinker(module)))
    return relax.transform.DeadCodeElimination()(moved)


def split_activations(module: Any) -> Any:
    """Return `module` with what bounds values in operators that ConvertLayout knows: the larger, the smaller of two.

    A leaky ReLU or a ReLU6 that it does not know would stand between transposes, as a kernel of its own.
    """
    return rewritten(module, _ActivationSplitter(module))


@relax.expr_functor.mutator
class _ActivationSplitter(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = operator_of(call)
        if name == "relax.nn.leakyrelu":
            return self._leaky(call)
        if name == "relax.clip" and str(call.ty.dtype) == "float32":
            return self._bounded(call)
        return call

    def _leaky(self, call: Any) -> Any:
        slope = float(call.attrs.alpha)
        if not 0 <= slope <= 1:
            return call
        (value,) = call.args
        part = self.builder_.emit(relax.op.multiply(value, relax.const(slope, "float32")))
        return relax.op.maximum(value, part)

    def _bounded(self, call: Any) -> Any:
        value, low, high = call.args
        least, most = float(low.value), float(high.value)
        if least == 0:
            value = self.builder_.emit(relax.op.nn.relu(value))
        elif math.isfinite(least):
            value = self.builder_.emit(relax.op.maximum(value, relax.const(least, "float32")))
        if not math.isfinite(most):
            return value
        return relax.op.minimum(value, relax.const(most, "float32"))


@relax.expr_functor.mutator
class _TransposeSinker(relax.PyExprMutator):  # type: ignore[misc]
    """Computes in (N,H,W,C) what is computed of transposed values, and transposes the result."""

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = operator_of(call)
        if name is None:
            return call
        if name == "relax.permute_dims":
            if _axes(call) != _TO_NHWC:
                return call
            twin = self._twin(call.args[0])
            return call if twin is None else twin
        if name == "relax.take":
            axis = call.attrs.axis
            call = _clipped(call.args[0], call.args[1], None if axis is None else int(axis))
        twin = self._moved(call, name)
        if twin is None:
            return call
        return relax.op.permute_dims(self.builder_.emit(twin), _TO_NCHW)

    def _moved(self, call: Any, name: str) -> Any:
        """Return what `call` of the operator `name` computes, in (N,H,W,C), None where that is not known."""
        if name in _ELEMENTWISE:
            return self._elementwise(call)
        if name == "relax.take" and call.attrs.axis is not None and int(call.attrs.axis) == 1:
            source = self._twin(call.args[0])
            if source is None or len(call.args[1].ty.shape) != 1:
                return None
            return _clipped(source, call.args[1], 3)
        if name == "relax.nn.pad":
            source = self._twin(call.args[0])
            if source is None:
                return None
            width = [int(extent) for extent in call.attrs.pad_width]
            moved = [width[2 * axis + side] for axis in _TO_NHWC for side in (0, 1)]
            return relax.op.nn.pad(
                source, moved, pad_value=call.attrs.pad_value, pad_mode=call.attrs.pad_mode
            )
        if name == "relax.concat" and int(call.attrs.axis) == 1:
            return self._concatenation(call)
        return None

    def _elementwise(self, call: Any) -> Any:
        if len(call.ty.shape) != 4:
            return None
        arguments = []
        for argument in call.args:
            constant = self._constant(argument)
            arguments.append(self._twin(argument) if constant is None else constant)
        if any(argument is None for argument in arguments):
            return None
        if all(isinstance(argument, tvm.ir.GenericConst) for argument in arguments):
            return None
        return relax.Call(call.op, arguments, call.attrs)

    def _concatenation(self, call: Any) -> Any:
        (parts,) = call.args
        if isinstance(parts, relax.Var):
            parts = self.lookup_binding(parts)
        if not isinstance(parts, relax.Tuple):
            return None
        twins = [self._twin(part) for part in parts.fields]
        # Moving it while one part is only at hand in (N,C,H,W) would make another transpose of that.
        if any(twin is None for twin in twins):
            return None
        return relax.op.concat(twins, axis=3)

    def _twin(self, value: Any) -> Any:
        """Return `value` (N,C,H,W) in (N,H,W,C) if it is the transpose of that, else None."""
        if not isinstance(value, relax.Var):
            return None
        bound = self.lookup_binding(value)
        if operator_of(bound) == "relax.permute_dims" and _axes(bound) == _TO_NCHW:
            return bound.args[0]
        return None

    def _constant(self, value: Any) -> Any:
        """Return a constant that is broadcast to (N,C,H,W) as one that is broadcast to (N,H,W,C), else None."""
        if isinstance(value, relax.Var):
            value = self.lookup_binding(value)
        if not isinstance(value, tvm.ir.GenericConst):
            return None
        values = value.value.numpy()
        if values.ndim == 0:
            return value
        full = values.reshape((1,) * (4 - values.ndim) + values.shape)
        moved = np.ascontiguousarray(np.transpose(full, _TO_NHWC))
        return relax.const(moved, str(values.dtype))


def _clipped(source: Any, index: Any, axis: int | None) -> Any:
    """Return a gather that stays within `source` whatever the index: kernels are timed with random arguments."""
    return relax.op.take(source, index, axis, mode="clip")


def _axes(call: Any) -> Sequence[int]:
    axes = call.attrs.axes
    return [] if axes is None else [int(axis) for axis in axes]
