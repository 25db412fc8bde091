"""Scaling of networks (paper, "Sensitivity to Model Scaling"): how much, and the suffix that people type for it.

    mnasnet-b1@0.75        three quarters of the filters
    mnasnet-b1@0.75,192    the same for images of 192x192
    mnasnet-b1@1,96        the filters as they are, for images of 96x96

Filters round to multiples of eight and never lose more than 10% (`round_filters`): the rule of the authors of
MobileNetV2, which those of MnasNet took over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture, plain_number, round_filters

DEPTH_MULTIPLIERS = (0.35, 1.4)
INPUT_SIZES = (96, 224)
"""The least and the most that the paper (its figure 4) and MobileNetV2's authors scale to."""

_SUFFIX = re.compile(r"(?P<width>\d+(?:\.\d+)?)(?:,(?P<size>\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A depth multiplier, and the height and width of the input; None leaves the input as it is."""

    depth_multiplier: float = 1.0
    input_size: int | None = None

    def __post_init__(self) -> None:
        least, most = DEPTH_MULTIPLIERS
        if not least <= self.depth_multiplier <= most:
            raise SpaceError(
                f"networks must be scaled by {least}..{most}, not {plain_number(self.depth_multiplier)}; "
                f"a notation takes others: the w of i224_c3_w1"
            )
        smallest, largest = INPUT_SIZES
        if self.input_size is not None and not smallest <= self.input_size <= largest:
            raise SpaceError(
                f"networks must be scaled to inputs of {smallest}..{largest}, not {self.input_size}; "
                f"a notation takes others: the i of i224_c3_w1"
            )

    def __str__(self) -> str:
        size = "" if self.input_size is None else f",{self.input_size}"
        return f"{plain_number(self.depth_multiplier)}{size}"

    @classmethod
    def parse(cls, text: str) -> Scaling:
        """Return the scaling that `text`, WIDTH or WIDTH,SIZE, means.

        Raises:
            SpaceError: if it cannot be read, or is out of range.
        """
        found = _SUFFIX.fullmatch(text)
        if found is None:
            raise SpaceError(
                f"after @ stands WIDTH or WIDTH,SIZE, not {text!r}; type, for example, "
                f"mnasnet-b1@0.75,192"
            )
        return cls(
            depth_multiplier=float(found["width"]),
            input_size=int(found["size"]) if found["size"] else None,
        )

    def apply(self, architecture: Architecture, *, widens_head: bool = False) -> Architecture:
        """Return `architecture` scaled.

        The depth multiplier scales the stem and the blocks. With `widens_head`, as in MobileNetV2, a multiplier
        above one also scales the head; MnasNet's head keeps its filters.

        Raises:
            SpaceError: if `architecture` has a depth multiplier already.
        """
        size = architecture.input_size if self.input_size is None else self.input_size
        if self.depth_multiplier == 1.0:
            return replace(architecture, input_size=size)
        if architecture.depth_multiplier != 1.0:
            raise SpaceError(
                f"a network is scaled once, and this one's depth multiplier is "
                f"{plain_number(architecture.depth_multiplier)} already, not 1; scale the one that it was "
                f"made from"
            )
        head = architecture.head_filters
        if widens_head and self.depth_multiplier > 1.0:
            head = round_filters(head * self.depth_multiplier)
        return replace(
            architecture,
            input_size=size,
            head_filters=head,
            depth_multiplier=self.depth_multiplier,
        )


def split_scaling(model: str) -> tuple[str, Scaling | None]:
    """Return what stands before the last @ of `model` and the scaling after it, None without an @.

    Raises:
        SpaceError: if what follows is no scaling.
    """
    base, at, text = model.rpartition("@")
    return (base, Scaling.parse(text)) if at else (model, None)
