"""What a schedule's marks ask for, done: the one way from scheduled code to code that is compiled."""

from __future__ import annotations

from typing import Any

from tvm_mnas.compiler.core.prefetch import with_prefetches
from tvm_mnas.compiler.core.rolling import with_rolling_rows


def as_marked(module: Any) -> Any:
    """Return the scheduled `module` as its marks say; without them it would compute the same, and take longer."""
    return with_prefetches(with_rolling_rows(module))
