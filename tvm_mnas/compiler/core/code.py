"""A function by what it computes, whatever it is called: what was found out of one need not be found out again.

Candidates share most of their kernels, so that a process meets the same code again and again.
"""

from __future__ import annotations

from typing import Any

from tvm_ffi import StructuralKey

REMEMBERED = 4096
"""Functions of which something is remembered; a search of the paper's space meets hundreds."""

_SYMBOL = "global_symbol"


def code_of(function: Any) -> StructuralKey:
    """Return the code of `function` without its name: equal for equal ones, and so a key of mappings."""
    return StructuralKey(function.without_attr(_SYMBOL))


def named_like(function: Any, original: Any) -> Any:
    """Return `function`, which has no name, under that of `original`."""
    symbol = (original.attrs or {}).get(_SYMBOL)
    return function if symbol is None else function.with_attr(_SYMBOL, symbol)
