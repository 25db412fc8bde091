"""Times networks one after the other for a command: the progress that is shown meanwhile, and what had no latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.console import OUTPUT, SearchDisplay

if TYPE_CHECKING:
    from tvm_mnas.workflows.compare import Timed
    from tvm_mnas.workflows.model_ref import Model


def time_networks(
    models: Sequence[Model],
    *,
    device: str,
    records: str,
    trials_per_kernel: int,
    rounds: int,
    seed: int,
) -> list[Timed]:
    """Return what `lineup.time_models` does, and raise what it raises; progress is shown meanwhile."""
    from tvm_mnas.workflows.compare import time_models

    with SearchDisplay(1) as display:
        return time_models(
            models,
            device=device,
            records=Path(records),
            trials_per_kernel=trials_per_kernel,
            seed=seed,
            rounds=rounds,
            observer=display,
        )


def print_failures(failures: Sequence[tuple[str, str | None]]) -> None:
    """Print a line for each (network, reason) with a reason why it has no latency."""
    for name, failure in failures:
        if failure is not None:
            OUTPUT.print(f"{name} has no latency: {failure}", markup=False)
