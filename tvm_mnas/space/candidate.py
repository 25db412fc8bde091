"""What a search proposes: an architecture of blocks, a detector on one, or a network built from choices of one's own.

All are told by one line of text, their notation, which is what runs store and workers get.
"""

from __future__ import annotations

from typing import Protocol

from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import PREFIX, DetectorArchitecture
from tvm_mnas.space.network_space import ChosenNetwork


class Candidate(Protocol):
    """One network of a space: `Architecture`, `DetectorArchitecture` and `ChosenNetwork` are."""

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal for candidates which are the same network."""
        ...

    @property
    def notation(self) -> str:
        """One line that `parse_candidate` reads back to an equal candidate."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """The shape (1,C,H,W) of one image."""
        ...

    @property
    def input_size(self) -> int:
        """Height and width of an image."""
        ...

    @property
    def input_channels(self) -> int:
        """Channels of an image."""
        ...

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        ...


def parse_candidate(text: str) -> Candidate:
    """Return the candidate that a notation means; nothing is imported or built for it.

    Raises:
        SpaceError: naming the part that cannot be read, or the rule that it breaks.
    """
    if text.lstrip().startswith(PREFIX):
        return DetectorArchitecture.parse(text)
    return ChosenNetwork.parse(text) if "?" in text else Architecture.parse(text)
