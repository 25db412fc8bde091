"""What a Relax expression calls."""

from __future__ import annotations

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
