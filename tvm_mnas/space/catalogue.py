"""Every space by what people call it: a name that ships, a TOML file, or a space of one's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from tvm_mnas.errors import SpaceError
from tvm_mnas.plugins import SPACES, is_reference
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.space.network_space import NetworkSpace
from tvm_mnas.space.space import Decision, SearchSpace


class Space(Protocol):
    """What a search needs of a space: `SearchSpace` and `NetworkSpace` are spaces."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every choice between two or more values."""
        ...

    @property
    def size(self) -> int:
        """The number of different token sequences."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that a token can mean."""
        ...

    def decode(self, tokens: Sequence[int]) -> Candidate:
        """Return the candidate that `tokens`, one index per decision, mean."""
        ...

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return tokens drawn uniformly from `rng`."""
        ...


def find_space(text: str) -> Space:
    """Return the space that `text` names: one that ships, a TOML file, an entry point or `package.module:object`.

    Raises:
        SpaceError: if there is none, a file breaks a rule, or the object is no space.
        ConfigError: if the module that it names cannot be imported.
    """
    if not SPACES.knows(text) and (text.endswith(".toml") or not is_reference(text)):
        return load_space(text)
    found = SPACES.load(text)
    if not isinstance(found, NetworkSpace | SearchSpace):
        raise SpaceError(
            f"{text!r} is no space: it is a NetworkSpace or a SearchSpace, and this is {type(found).__name__}"
        )
    return found
