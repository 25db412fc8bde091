"""What a tuning will take, told from the records: schedules left to measure, and what one took before."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.records.base import TuningRecords
from tvm_mnas.compiler.records.formats import HISTORY, parse_event


def count_planned(kernels: Sequence[Kernel], store: TuningRecords, *, schedules: int) -> int:
    """Return how many schedules tuning `kernels` to `schedules` each will measure at most.

    Raises:
        RecordsError: if a line of the records is damaged.
    """
    lacking = store.missing(kernels, schedules_per_kernel=schedules)
    return sum(max(0, schedules - len(store.records_of(kernel.key))) for kernel in lacking)


def seconds_per_schedule(store: Path) -> float | None:
    """Return what a schedule took in the tunings that the store in the directory `store` tells of, in seconds.

    The median over its kernels; None where it has not measured any.
    """
    try:
        lines = (store / HISTORY).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    duration_s: defaultdict[str, float] = defaultdict(float)
    measured: Counter[str] = Counter()
    for line in lines:
        try:
            event = parse_event(line)
        except ValueError:
            # The last line of a process that was killed, or is at work: this is only an estimate.
            continue
        # What was merged from another store has no time of its own.
        if event.duration_s > 0 and event.measured > 0:
            duration_s[event.key] += event.duration_s
            measured[event.key] += event.measured
    return median(duration_s[key] / measured[key] for key in measured) if measured else None
