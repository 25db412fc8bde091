"""Options that several commands take, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.config import SearchConfig

if TYPE_CHECKING:
    from tvm_mnas.evaluation.toolchain import ToolchainOptions

DEFAULTS = SearchConfig()

ALLOW_UNTUNED = (
    "How much of the run time may be in kernels without a record, such as 5%; else none."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Records = Annotated[
    str, typer.Option(help="Where tuning records are kept, from one run to the next.")
]

Device = Annotated[str, typer.Option(help="A device profile by name, or a file.")]
Trials = Annotated[
    int, typer.Option(min=1, help="Schedules to measure for a kernel without records.")
]
Rounds = Annotated[
    int,
    typer.Option(min=1, help="How often to time each network, all in turn; the median counts."),
]
Seed = Annotated[int, typer.Option(help="The seed of weights and tuning.")]


def toolchain_options(
    *, records: str, schedules_per_kernel: int, seed: int, max_untuned_share: float = 0.0
) -> ToolchainOptions:
    """Return what the flags of a command that tunes kernels mean."""
    from tvm_mnas.evaluation.toolchain import ToolchainOptions

    return ToolchainOptions(
        records=Path(records),
        schedules_per_kernel=schedules_per_kernel,
        seed=seed,
        max_untuned_share=max_untuned_share,
    )
