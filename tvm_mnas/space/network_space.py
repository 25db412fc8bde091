"""A space of one's own: named decisions, and a function from the choices to a torch module.

    def build(choices):
        return nn.Sequential(...)                       # any module: images (N,C,H,W) -> logits (N,classes)

    SPACE = NetworkSpace(
        "resnets", {"width": (16, 32), "depth": (1, 2, 3)}, build, image_shape=(1, 3, 32, 32), classes=10
    )

`tvm-mnas search --space package.module:SPACE` searches it like any other. Workers import the function by its name, so
it stands at the top level of a module or file. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from tvm_mnas.errors import SpaceError
from tvm_mnas.plugins import reference_of
from tvm_mnas.space.space import Choice, Decision

NetworkBuilder = Callable[[Mapping[str, Choice]], Any]
"""Makes the `torch.nn.Module` of choices by name: images (N,C,H,W) in, logits (N,classes) out."""

_NOTATION = re.compile(
    r"(?P<builder>[^@?]+)@(?P<channels>\d+)x(?P<size>\d+),n(?P<classes>\d+)\?(?P<choices>.*)"
)


@dataclass(frozen=True)
class ChosenNetwork:
    """One network of a `NetworkSpace`: the reference of its builder, and what was chosen.

    `notation` is `BUILDER@CHANNELSxSIZE,nCLASSES?name=value&...`, values as JSON.
    """

    builder: str
    choices: tuple[tuple[str, Choice], ...]
    input_channels: int
    input_size: int
    classes: int

    def __post_init__(self) -> None:
        for name in ("input_channels", "input_size", "classes"):
            if getattr(self, name) < 1:
                raise SpaceError(f"{name} must be at least 1, not {getattr(self, name)}")
        if ":" not in self.builder or not self.choices:
            raise SpaceError(
                f"a network of choices has a builder module:function and one choice or more: {self.builder!r}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """The shape (1,C,H,W) of one image."""
        return (1, self.input_channels, self.input_size, self.input_size)

    @cached_property
    def notation(self) -> str:
        """The one-line notation; `ChosenNetwork.parse` reads it back to an equal one."""
        values = urlencode([(name, json.dumps(value)) for name, value in self.choices])
        builder = quote(self.builder, safe="/:.")
        return f"{builder}@{self.input_channels}x{self.input_size},n{self.classes}?{values}"

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that change with the builder's name, the image and each choice."""
        name = self.builder.rpartition("/")[2]
        text = json.dumps([name, self.choices, self.image_shape, self.classes])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return self.notation

    @classmethod
    def parse(cls, text: str) -> ChosenNetwork:
        """Return the network that the notation `text` means.

        Raises:
            SpaceError: if it cannot be read.
        """
        found = _NOTATION.fullmatch(text.strip())
        if found is None:
            raise SpaceError(
                f"cannot read the network {text!r}: it has the form "
                f"module:function@CHANNELSxSIZE,nCLASSES?name=value&name=value"
            )
        try:
            pairs = parse_qsl(found["choices"], strict_parsing=True)
            choices = tuple((name, json.loads(value)) for name, value in pairs)
        except ValueError as error:
            raise SpaceError(f"cannot read the choices of the network {text!r}: {error}") from error
        for name, value in choices:
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise SpaceError(
                    f"cannot read {text!r}: {name} must be a text or a number, not {value}"
                )
        return cls(
            builder=unquote(found["builder"]),
            choices=choices,
            input_channels=int(found["channels"]),
            input_size=int(found["size"]),
            classes=int(found["classes"]),
        )


@dataclass(frozen=True)
class NetworkSpace:
    """Every network that `build` makes of one choice for each of the named `choices`.

    `image_shape` is (1,C,S,S). Raises `SpaceError` where the fields break a rule.
    """

    name: str
    choices: Mapping[str, Sequence[Choice]]
    build: NetworkBuilder
    image_shape: tuple[int, int, int, int]
    classes: int

    def __post_init__(self) -> None:
        batch, _, height, width = self.image_shape
        if batch != 1 or height != width:
            raise SpaceError(
                f"space {self.name!r}: image_shape must be (1, channels, size, size), not {self.image_shape}"
            )
        if not self.decisions:
            raise SpaceError(f"space {self.name!r} leaves something to choose, not 0 decisions")
        self.decode([0] * len(self.decisions))

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Every choice between two or more values, in the order of `choices`."""
        return tuple(
            Decision(name, tuple(values))
            for name, values in self.choices.items()
            if len(values) != 1
        )

    @property
    def size(self) -> int:
        """The number of different networks."""
        return math.prod(len(decision.choices) for decision in self.decisions)

    @cached_property
    def builder(self) -> str:
        """The reference by which workers find `build`."""
        return reference_of(self.build, what=f"the builder of space {self.name!r}")

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that a token can mean, but the builder's code."""
        text = json.dumps(
            [
                self.name,
                {k: list(v) for k, v in self.choices.items()},
                self.image_shape,
                self.classes,
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, tokens: Sequence[int]) -> ChosenNetwork:
        """Return the network that `tokens`, one index per decision, mean.

        Raises:
            SpaceError: if there are too few or too many tokens, or one is out of range.
        """
        if len(tokens) != len(self.decisions):
            raise SpaceError(
                f"space {self.name!r} takes {len(self.decisions)} tokens, not {len(tokens)}"
            )
        chosen: dict[str, Choice] = {name: values[0] for name, values in self.choices.items()}
        for decision, token in zip(self.decisions, tokens, strict=True):
            if not 0 <= token < len(decision.choices):
                raise SpaceError(
                    f"{decision.name} takes a token in 0..{len(decision.choices) - 1}, not {token}"
                )
            chosen[decision.name] = decision.choices[token]
        return ChosenNetwork(
            builder=self.builder,
            choices=tuple(chosen.items()),
            input_channels=self.image_shape[1],
            input_size=self.image_shape[2],
            classes=self.classes,
        )

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return tokens drawn uniformly from `rng`."""
        return tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)
