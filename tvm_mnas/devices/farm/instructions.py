"""How much work code is where a device is emulated: the instructions of one run, by class.

They are the same every time and on any machine, so they order schedules where the emulator's clock orders none. They
are no times, and nothing shows them as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tvm_mnas.errors import MeasurementError

CLASSES = (
    "all",
    "multiply_adds",
    "loads",
    "stores",
    "branches",
    "integer",
    "other_vector",
)
"""What rpc/server/count.c counts, in its order; further counts are of no class yet."""
ORDER_S = 1e-9
"""What an instruction counts for where records have seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionCounts:
    """The 64-bit ARM instructions of one run: `all`, and those of each class, which add up to it.

    `multiply_adds` are those of vectors of floating-point numbers; `integer` are addresses, loops and moves.
    """

    all: int
    multiply_adds: int
    loads: int
    stores: int
    branches: int
    integer: int
    other_vector: int

    def __post_init__(self) -> None:
        counts = asdict(self)
        total = counts.pop("all")
        if total < 1 or min(counts.values()) < 0 or sum(counts.values()) != total:
            raise MeasurementError(
                f"instructions are 1 or more, those of each class in all of them, not {asdict(self)}"
            )

    @classmethod
    def of(cls, counts: Sequence[int]) -> InstructionCounts:
        """Return the counts that an emulated device's server replies.

        Raises:
            MeasurementError: if they are not such counts.
        """
        if len(counts) < len(CLASSES):
            raise MeasurementError(
                f"a reply has {len(CLASSES)} counts of instructions or more, not {counts}"
            )
        return cls(**dict(zip(CLASSES, counts, strict=False)))
