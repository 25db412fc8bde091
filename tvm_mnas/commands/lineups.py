"""Times networks one after the other for a command: the progress that is shown meanwhile, and what had no latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.console import OUTPUT, SearchDisplay

if TYPE_CHECKING:
    from tvm_mnas.workflows.compare import ModelTiming
    from tvm_mnas.workflows.model_ref import ModelRef


def time_networks(
    models: Sequence[ModelRef],
    *,
    device: str,
    records: str,
    schedules_per_kernel: int,
    rounds: int,
    seed: int,
) -> list[ModelTiming]:
    """Return what `lineup.compare_models` does, and raise what it raises; progress is shown meanwhile."""
    from tvm_mnas.workflows.compare import compare_models

    with SearchDisplay(1) as display:
        return compare_models(
            models,
            device=device,
            records=Path(records),
            schedules_per_kernel=schedules_per_kernel,
            seed=seed,
            rounds=rounds,
            observer=display,
        )


def print_failures(failures: Sequence[tuple[str, str | None]]) -> None:
    """Print a line for each (network, reason) with a reason why it has no latency."""
    for name, failure in failures:
        if failure is not None:
            OUTPUT.print(f"{name} has no latency: {failure}", markup=False)
