"""Options that several commands take, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError

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
InputShape = Annotated[
    str | None,
    typer.Option(
        help="For an .onnx file whose input is open: N,C,H,W, such as 1,3,224,224.",
        metavar="N,C,H,W",
    ),
]
Seed = Annotated[int, typer.Option(help="The seed of weights and tuning.")]
RecipeValues = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any value of the recipe; may be repeated."),
]


def parse_shape(text: str | None) -> tuple[int, int, int, int] | None:
    """Return the four sizes in `text`, None for None.

    Raises:
        ConfigError: if they are not four, or not above 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(
            f"--input-shape must be four numbers above 0, not {text!r}; for example --input-shape 1,3,224,224"
        )
    first, second, third, fourth = (int(part) for part in parts)
    return first, second, third, fourth


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
