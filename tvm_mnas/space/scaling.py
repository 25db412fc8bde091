"""One architecture at other widths and input sizes (paper, "Sensitivity to Model Scaling").

The filters are multiplied and rounded as `scale_filters` does; the layers and everything else stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture, round_filters

MOST_MULTIPLIER = 4.0
LEAST_MULTIPLIER = 0.1
LEAST_SIZE, MOST_SIZE = 32, 1024

_SCALE = re.compile(r"(?P<multiplier>\d+(?:\.\d+)?)(?:x(?P<size>\d+))?")


@dataclass(frozen=True, slots=True)
class Scale:
    """A depth multiplier and an input size (pixels), None for the network's own size. Reads like `0.5x160`."""

    depth_multiplier: float
    input_size: int | None = None

    def __post_init__(self) -> None:
        if not LEAST_MULTIPLIER <= self.depth_multiplier <= MOST_MULTIPLIER:
            raise SpaceError(
                f"a depth multiplier is in {LEAST_MULTIPLIER}..{MOST_MULTIPLIER:g}, such as 0.75, "
                f"not {self.depth_multiplier:g}"
            )
        if self.input_size is not None and not LEAST_SIZE <= self.input_size <= MOST_SIZE:
            raise SpaceError(
                f"an input size is in {LEAST_SIZE}..{MOST_SIZE} pixels, such as 160, not {self.input_size}"
            )

    def __str__(self) -> str:
        size = "" if self.input_size is None else f"x{self.input_size}"
        return f"{self.depth_multiplier:g}{size}"

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Return the scale that `text` means; `str` writes it back.

        Raises:
            SpaceError: if it reads otherwise or is out of range.
        """
        found = _SCALE.fullmatch(text)
        if found is None:
            raise SpaceError(
                f"a scale is MULTIPLIER or MULTIPLIERxSIZE, such as 0.5 or 0.5x160, not {text!r}"
            )
        size = found["size"]
        return cls(float(found["multiplier"]), None if size is None else int(size))


def scaled(architecture: Architecture, scale: Scale, *, widen_head: bool = False) -> Architecture:
    """Return `architecture` with its depth multiplier times that of `scale`, at its input size.

    The head keeps its filters, as in the MnasNet authors' code; with `widen_head` a multiplier above 1 widens it
    too, as MobileNetV2 does (arXiv 1801.04381v4, section 6.1).
    """
    head = architecture.head_filters
    if widen_head and scale.depth_multiplier > 1:
        head = round_filters(head * scale.depth_multiplier)
    return replace(
        architecture,
        depth_multiplier=architecture.depth_multiplier * scale.depth_multiplier,
        input_size=architecture.input_size if scale.input_size is None else scale.input_size,
        head_filters=head,
    )
