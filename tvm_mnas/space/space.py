"""A factorized hierarchical search space: what may be chosen for each block, and the decisions that follow.

A space is built in code or read from a TOML file (`files.py`). It has a fixed skeleton (input, stem, the
blocks' strides, head) and, per block, choices for the operation, the kernel size, the skip, the
squeeze-and-excitation ratio, the filters and the number of layers (paper, "Factorized Hierarchical Search
Space"). Each choice between two or more values is one `Decision`; an architecture of the space is one
token (the index of the value) per decision:

    decisions --sample--> tokens --decode--> Architecture --encode--> the same tokens

Nothing here imports torch, numpy or TVM.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture, Block, ConvOp, SkipOp

Choice = str | int | float

EXPANSIONS = range(2, 11)
"""What an inverted bottleneck may be written with: `mbconv2` to `mbconv10`."""

OPERATIONS = ("conv", "sepconv", *(f"mbconv{expansion}" for expansion in EXPANSIONS))


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice the controller makes: its name, such as `block3.conv_op`, and the values to choose from."""

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise SpaceError(
                f"{self.name} must have two or more different choices, not {self.choices}"
            )


@dataclass(frozen=True, slots=True)
class BlockSpace:
    """What one block may be: its stride is given, everything else a tuple of one or more values.

    `operations` are `conv`, `sepconv` or `mbconvE` with expansion E; `filters` and `layers` are the values
    themselves, already scaled and rounded.
    """

    stride: int
    operations: tuple[str, ...]
    kernel_sizes: tuple[int, ...]
    skip_ops: tuple[str, ...]
    se_ratios: tuple[float, ...]
    filters: tuple[int, ...]
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in self.fields:
            if not values or len(set(values)) != len(values):
                raise SpaceError(
                    f"{name} must have one or more different values, not {list(values)}"
                )
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise SpaceError(
                    f"conv_op must be conv, sepconv or {OPERATIONS[2]}..{OPERATIONS[-1]}, not {operation!r}"
                )
        for skip_op in self.skip_ops:
            if skip_op not in {op.value for op in SkipOp}:
                raise SpaceError(
                    f"skip_op must be none, identity, max_pool or avg_pool, not {skip_op!r}"
                )
        # The rules on numbers are the block's own: the extremes of each field suffice to check them.
        for pick in (min, max):
            self.block(
                self.operations[0],
                pick(self.kernel_sizes),
                self.skip_ops[0],
                pick(self.se_ratios),
                pick(self.filters),
                pick(self.layers),
            )
        for kernel_size in self.kernel_sizes:
            self.block(self.operations[0], kernel_size, self.skip_ops[0], 0.0, 8, 1)

    @property
    def fields(self) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
        """Names and values of everything that can be chosen, in the order of the decisions."""
        return (
            ("conv_op", self.operations),
            ("kernel_size", self.kernel_sizes),
            ("skip_op", self.skip_ops),
            ("se_ratio", self.se_ratios),
            ("filters", self.filters),
            ("layers", self.layers),
        )

    def block(
        self,
        operation: str,
        kernel_size: int,
        skip_op: str,
        se_ratio: float,
        filters: int,
        layers: int,
    ) -> Block:
        """Return the block that these values mean."""
        return _block(
            self.stride, operation, kernel_size, SkipOp(skip_op), se_ratio, filters, layers
        )


@dataclass(frozen=True)
class SearchSpace:
    """Every architecture that a search may propose. Raises `SpaceError` where the fields break a rule."""

    name: str
    blocks: tuple[BlockSpace, ...]
    input_size: int = 224
    input_channels: int = 3
    stem_filters: int = 32
    stem_stride: int = 2
    head_filters: int = 1280
    classes: int = 1000
    depth_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not self.blocks:
            raise SpaceError(f"space {self.name!r} needs at least one block, and has none")
        if not self.decisions:
            raise SpaceError(f"space {self.name!r} leaves something to choose, not 0 decisions")
        self.decode([0] * len(self.decisions))

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Every choice between two or more values, block by block."""
        return tuple(
            Decision(f"block{number}.{name}", values)
            for number, block in enumerate(self.blocks, start=1)
            for name, values in block.fields
            if len(values) > 1
        )

    @property
    def size(self) -> int:
        """The number of different token sequences."""
        return math.prod(len(decision.choices) for decision in self.decisions)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that a token can mean."""
        skeleton = [
            self.input_size,
            self.input_channels,
            self.stem_filters,
            self.stem_stride,
            self.head_filters,
            self.classes,
            self.depth_multiplier,
            [
                [block.stride, *(list(values) for _, values in block.fields)]
                for block in self.blocks
            ],
        ]
        return hashlib.sha256(json.dumps(skeleton).encode()).hexdigest()[:16]

    def decode(self, tokens: Sequence[int]) -> Architecture:
        """Return the architecture that `tokens`, one index per decision, mean.

        Raises:
            SpaceError: if there are too few or too many tokens, or one is out of range.
        """
        if len(tokens) != len(self.decisions):
            raise SpaceError(
                f"space {self.name!r} takes {len(self.decisions)} tokens, not {len(tokens)}"
            )
        remaining = iter(zip(self.decisions, tokens, strict=True))
        blocks: list[Block] = []
        for block in self.blocks:
            values: list[Choice] = []
            for _, choices in block.fields:
                if len(choices) == 1:
                    values.append(choices[0])
                    continue
                decision, token = next(remaining)
                if not 0 <= token < len(choices):
                    raise SpaceError(
                        f"{decision.name} takes a token in 0..{len(choices) - 1}, not {token}"
                    )
                values.append(choices[token])
            operation, kernel_size, skip_op, se_ratio, filters, layers = values
            blocks.append(
                block.block(
                    str(operation),
                    int(kernel_size),
                    str(skip_op),
                    float(se_ratio),
                    int(filters),
                    int(layers),
                )
            )
        return Architecture(
            blocks=tuple(blocks),
            input_size=self.input_size,
            input_channels=self.input_channels,
            stem_filters=self.stem_filters,
            stem_stride=self.stem_stride,
            head_filters=self.head_filters,
            classes=self.classes,
            depth_multiplier=self.depth_multiplier,
        )

    def encode(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the tokens of `architecture`.

        Raises:
            SpaceError: if the architecture is not in this space, naming the first thing that is not.
        """
        self._check_skeleton(architecture)
        tokens: list[int] = []
        pairs = zip(self.blocks, architecture.blocks, strict=True)
        for number, (space, block) in enumerate(pairs, start=1):
            values: tuple[Choice, ...] = (
                _join_operation(block.conv_op, block.expansion),
                block.kernel_size,
                block.skip_op.value,
                block.se_ratio,
                block.filters,
                block.layers,
            )
            for (name, choices), value in zip(space.fields, values, strict=True):
                if value not in choices:
                    raise SpaceError(
                        f"block{number}.{name} of space {self.name!r} is one of {list(choices)}, "
                        f"not {value!r}"
                    )
                if len(choices) > 1:
                    tokens.append(choices.index(value))
        return tuple(tokens)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return tokens drawn uniformly from `rng`."""
        return tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)

    def _check_skeleton(self, architecture: Architecture) -> None:
        for name in (
            "input_size",
            "input_channels",
            "stem_filters",
            "stem_stride",
            "head_filters",
            "classes",
            "depth_multiplier",
        ):
            mine, theirs = getattr(self, name), getattr(architecture, name)
            if mine != theirs:
                raise SpaceError(f"{name} of space {self.name!r} must be {mine}, not {theirs}")
        mine_strides = [block.stride for block in self.blocks]
        strides = [block.stride for block in architecture.blocks]
        if mine_strides != strides:
            raise SpaceError(
                f"the blocks of space {self.name!r} must have strides {mine_strides}, not {strides}"
            )


@lru_cache(1 << 14)
def _block(
    stride: int,
    operation: str,
    kernel_size: int,
    skip_op: SkipOp,
    se_ratio: float,
    filters: int,
    layers: int,
) -> Block:
    conv_op, expansion = _split_operation(operation)
    return Block(
        conv_op=conv_op,
        kernel_size=kernel_size,
        stride=stride,
        filters=filters,
        layers=layers,
        expansion=expansion,
        se_ratio=se_ratio,
        skip_op=skip_op,
    )


def _split_operation(operation: str) -> tuple[ConvOp, int]:
    if operation.startswith("mbconv"):
        return ConvOp.MBCONV, int(operation.removeprefix("mbconv"))
    return ConvOp(operation), 1


def _join_operation(conv_op: ConvOp, expansion: int) -> str:
    return f"mbconv{expansion}" if conv_op is ConvOp.MBCONV else conv_op.value
