"""Computes what is constant in a lowered network, once and without a compiler where that is possible.

TVM's own FoldConstant compiles a function for every constant that it folds: seconds for a network whose weights
are merely transposed. Here transposes and reshapes of weights are numpy's, and the packing of weights, which
only TVM can express, is compiled once for each shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mnas.compiler.linking import find_linker
from tvm_mnas.compiler.objects import ObjectCache

_PACKS = "_weight_prepack"
"""How the name of a function that packs weights ends."""
_FOLDED_OPS = ("relax.permute_dims", "relax.reshape")


def fold_layouts(module: Any) -> Any:
    """Return `module` with the transposes and reshapes of its constants carried out."""
    return rewritten(module, _LayoutFolder(module))


def fold_packing(module: Any, objects: Path) -> Any:
    """Return `module` with the packing of its weights, split off by SplitLayoutRewritePreproc, carried out.

    The functions that pack are compiled for this machine, kept in the directory `objects`, run on the constants, and
    dropped.
    """
    packers = {
        variable.name_hint: function
        for variable, function in module.functions_items()
        if variable.name_hint.endswith(_PACKS)
    }
    if not packers:
        return module
    # This machine's, whatever the network is compiled for: the packing happens here and now.
    cache = ObjectCache(objects, "llvm")
    linker = find_linker(cache.target)
    compiled = {name: cache.library(function, linker) for name, function in packers.items()}
    folded = relax.transform.CanonicalizeBindings()(
        rewritten(module, _PackingFolder(module, compiled))
    )
    return relax.transform.DeadCodeElimination()(folded)


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
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _FOLDED_OPS:
            return call
        constant = self._constant(call.args[0])
        if constant is None:
            return call
        values = constant.value.numpy()
        if call.op.name == "relax.permute_dims":
            axes = call.attrs.axes
            folded = np.transpose(values, None if axes is None else [int(axis) for axis in axes])
        else:
            folded = values.reshape(_shape_of(call))
        return relax.const(np.ascontiguousarray(folded), str(values.dtype))

    def _constant(self, expression: Any) -> Any:
        if isinstance(expression, relax.Var):
            expression = self.lookup_binding(expression)
        return expression if isinstance(expression, tvm.ir.GenericConst) else None


@relax.expr_functor.mutator
class _PackingFolder(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Any, packers: Mapping[str, Any]) -> None:
        super().__init__(module)
        self._packers = packers

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir":
            return call
        name = call.args[0].name_hint
        arguments = list(call.args[1])
        if not name.endswith(_PACKS):
            return call
        if not all(isinstance(argument, tvm.ir.GenericConst) for argument in arguments):
            return call
        fields = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
        outputs = [
            tvm.runtime.empty([int(extent) for extent in field.shape], str(field.dtype))
            for field in fields
        ]
        self._packers[name](*(argument.value for argument in arguments), *outputs)
        constants = [relax.const(output) for output in outputs]
        return relax.Tuple(constants) if isinstance(call.ty, relax.TupleType) else constants[0]
