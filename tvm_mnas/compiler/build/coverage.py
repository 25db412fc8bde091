"""How much of a network's run time is in kernels compiled from a record, and whether that is enough.

A kernel without one is compiled as TVM builds it by itself, its loops as they were written: often tens of times slower
than it could be. So it is let in only by choice, with its own time known, and while all such kernels together are a
small part of the run time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvm_mnas.errors import UntunedKernelError

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel
    from tvm_mnas.compiler.records.base import TuningRecords


def untuned_kernels(kernels: Sequence[Kernel], store: TuningRecords) -> list[Kernel]:
    """Return those of `kernels` that have no schedule that ran in `store`, in their order."""
    return [kernel for kernel in kernels if not store.has(kernel.key)]


def tuned_share(
    kernels: Sequence[Kernel],
    store: TuningRecords,
    *,
    untuned_us: Mapping[str, float],
    max_untuned_share: float,
) -> float:
    """Return the part (0..1) of the run time of `kernels` that is spent in those with a record in `store`.

    A kernel's time is that of its record, or in `untuned_us`: microseconds of one call without a record, as measured
    on the device, by key. Each counts as often as the network calls it.

    Raises:
        UntunedKernelError: if a kernel has neither, or more than `max_untuned_share` (0..1) of the run time is in those
            without a record.
    """
    untuned = untuned_kernels(kernels, store)
    if not untuned:
        return 1.0
    for kernel in untuned:
        if max_untuned_share == 0:
            raise UntunedKernelError(
                f"{_rule(kernel)}; `--allow-untuned 5%` lets one in that takes less than that of the run time"
            )
        if not _is_time(untuned_us.get(kernel.key)):
            raise UntunedKernelError(
                f"{_rule(kernel)}, and it could not be timed without one either; "
                f"`tvm-mnas device list` shows whether the device is there"
            )
    tuned_us = sum(
        (store.best_us(kernel.key) or 0.0) * kernel.calls
        for kernel in kernels
        if store.has(kernel.key)
    )
    costs_us = {kernel.key: untuned_us[kernel.key] * kernel.calls for kernel in untuned}
    without_us = sum(costs_us.values())
    share = without_us / (tuned_us + without_us)
    if share > max_untuned_share:
        costliest = max(untuned, key=lambda kernel: costs_us[kernel.key])
        raise UntunedKernelError(
            f"at most {100 * max_untuned_share:.3g}% of the run time may be in kernels without a tuning "
            f"record, and {100 * share:.3g}% is, most of it in {costliest.name} ({costliest.key}): "
            f"{costs_us[costliest.key]:.4g} of {tuned_us + without_us:.4g} us; "
            f"`tvm-mnas tune MODEL --schedules-per-kernel N` with more schedules than before may find one that runs"
        )
    return tuned_us / (tuned_us + without_us)


def _rule(kernel: Kernel) -> str:
    return (
        f"a latency needs a tuning record for every kernel, and {kernel.name} ({kernel.key}) has none; "
        f"every schedule tried for it failed, see the run's log"
    )


def _is_time(time_us: float | None) -> bool:
    return time_us is not None and math.isfinite(time_us) and time_us > 0
