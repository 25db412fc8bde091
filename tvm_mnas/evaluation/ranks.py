"""How alike two orders are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return each value's rank, the smallest 0; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    result: npt.NDArray[np.float64] = below + (equal - 1) / 2
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, None where one side is all equal: there is no order to compare."""
    one, two = ranks(first), ranks(second)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(np.corrcoef(one, two)[0, 1])
