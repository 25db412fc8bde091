"""Computes what is constant in a lowered network, once and without a compiler where that is possible.

TVM's own FoldConstant compiles a function for every constant that it folds: seconds for a network whose weights
are merely transposed. Here transposes and reshapes of weights are numpy's, and the packing of weights, which
only TVM can express, is compiled once for each shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mnas.compiler.core.calls import operator_of

_FOLDED_OPS = ("relax.permute_dims", "relax.reshape")


def fold_layouts(module: Any) -> Any:
    """Return `module` with the transposes and reshapes of its constants carried out."""
    return rewritten(module, _LayoutFolder(module))


def rewritten(module: Any, mutator: Any) -> Any:
    """Return `module` after `mutator`, which was made for it, went through its Relax functions."""
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            mutator.builder_.update_func(variable, mutator.visit_expr(function))
    return mutator.builder_.get()


def _shape_of(expression: Any) -> list[int]:
    return [int(extent) for extent in expression.ty.shape]


@relax.expr_functor.mutator
class _LayoutFolder(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = operator_of(call)
        if name not in _FOLDED_OPS:
            return call
        constant = self._constant(call.args[0])
        if constant is None:
            return call
        values = constant.value.numpy()
        if name == "relax.permute_dims":
            axes = call.attrs.axes
            folded = np.transpose(values, None if axes is None else [int(axis) for axis in axes])
        else:
            folded = values.reshape(_shape_of(call))
        return relax.const(np.ascontiguousarray(folded), str(values.dtype))

    def _constant(self, expression: Any) -> Any:
        if isinstance(expression, relax.Var):
            expression = self.lookup_binding(expression)
        return expression if isinstance(expression, tvm.ir.GenericConst) else None
