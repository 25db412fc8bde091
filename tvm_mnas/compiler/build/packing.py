"""Packs a network's weights as its kernels' schedules want them: compiled once for each shape, run on the constants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of
from tvm_mnas.compiler.core.linking import find_linker
from tvm_mnas.compiler.core.objects import ObjectCache
from tvm_mnas.compiler.lowering.constants import rewritten

_PACKS = "_weight_prepack"
"""How the name of a function that packs weights ends."""


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


@relax.expr_functor.mutator
class _PackingFolder(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Any, packers: Mapping[str, Any]) -> None:
        super().__init__(module)
        self._packers = packers

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if operator_of(call) != KERNEL_CALL:
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
