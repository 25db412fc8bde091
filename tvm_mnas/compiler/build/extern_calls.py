"""A network without its kernels: Relax code that calls them by the symbols under which they were compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, te

from tvm_mnas.compiler.core.calls import KERNEL_CALL, operator_of

_ANCHOR = "tvm_mnas_anchor"


def call_by_symbol(module: Any, symbols: Mapping[str, str]) -> Any:
    """Return `module` with its kernels gone and their calls made to packed functions: `symbols` by kernel's name."""
    mutator = _SymbolCaller(module, symbols)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            mutator.builder_.update_func(variable, mutator.visit_expr(function))
    called = {
        variable: function
        for variable, function in mutator.builder_.get().functions_items()
        if isinstance(function, relax.Function)
    }
    # Without any code for LLVM, TVM would write the weights as C source, which takes a compiler.
    called[tvm.ir.GlobalVar(_ANCHOR)] = _anchor()
    return tvm.IRModule(called, attrs=module.attrs)


def _anchor() -> Any:
    one = te.placeholder((1,), name="one")
    function = te.create_prim_func([one, te.compute((1,), lambda i: one[i] + 1.0, name="two")])
    return function.with_attr("global_symbol", _ANCHOR)


@relax.expr_functor.mutator
class _SymbolCaller(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Any, symbols: Mapping[str, str]) -> None:
        super().__init__(module)
        self._symbols = symbols

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if operator_of(call) != KERNEL_CALL:
            return call
        symbol = self._symbols[call.args[0].name_hint]
        return relax.call_dps_packed(symbol, call.args[1], list(call.ty_args))
