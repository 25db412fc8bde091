"""What a Relax expression calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax

KERNEL_CALL = "relax.call_tir"
"""The operator that calls a kernel: the first argument is its name, the second a tuple of what it reads."""


def operator_of(expression: Any) -> str | None:
    """Return the name of the operator that `expression` calls, None if it is anything else."""
    if isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op):
        return str(expression.op.name)
    return None


def reads_in(function: Any) -> Counter[Any]:
    """Return how often each variable of a Relax function is read, its output included."""
    bindings = [one for block in function.body.blocks for one in block.bindings]
    return Counter(
        variable
        for value in (*(one.value for one in bindings), function.body.body)
        for variable in _variables(value)
    )


def _variables(value: Any) -> list[Any]:
    """Return the variables that `value` reads, one as often as it does."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [variable for field in value.fields for variable in _variables(field)]
    if isinstance(value, relax.Call):
        return [variable for argument in value.args for variable in _variables(argument)]
    return list(relax.analysis.free_vars(value))
