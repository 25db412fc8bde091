"""An architecture: the frozen description of one network, its one-line notation and its resolved layers.

Everything downstream works from `Architecture`: `models/` builds the torch network from
`Architecture.layers`, the search keys its cache on `Architecture.id`, and people read and type
`Architecture.notation`.

The notation follows the one that the MnasNet authors published with their code
(https://github.com/tensorflow/tpu, models/official/mnasnet/mnasnet_models.py), fenced by input and head:

    i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r3_k3_s22_e3_i16_o24:head1280:n1000
    |          |          |                                                |        `- classes
    |          |          `- a block, any number of them                   `- filters of the last 1x1 convolution
    |          `- filters and stride of the first convolution
    `- input size, input channels, depth multiplier

In a block: `r` layers, `k` kernel size, `s` stride (twice, as published), `e` expansion (`e1` is a depthwise
separable convolution, `conv` in its place a regular one), `i` and `o` input and output filters before scaling,
`se` squeeze-and-excitation ratio, and the skip: identity unless `noskip`, `max` or `avg` says otherwise.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

from tvm_mnas.errors import SpaceError


class ConvOp(StrEnum):
    """The convolutional operation of a block (paper, "ConvOp")."""

    CONV = "conv"
    SEPCONV = "sepconv"
    MBCONV = "mbconv"


class SkipOp(StrEnum):
    """What runs beside the convolution and is added to its output (paper, "SkipOp")."""

    NONE = "none"
    IDENTITY = "identity"
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"


KERNEL_SIZES = (1, 3, 5, 7)
MIN_SE_RATIO = 0.01
CHANNEL_DIVISOR = 8
"""Channels are rounded to multiples of this, which vector units like."""

_SKIP_SUFFIX = {
    SkipOp.NONE: "_noskip",
    SkipOp.IDENTITY: "",
    SkipOp.MAX_POOL: "_max",
    SkipOp.AVG_POOL: "_avg",
}
_SKIP_OF_WORD = {
    "": SkipOp.IDENTITY,
    "noskip": SkipOp.NONE,
    "max": SkipOp.MAX_POOL,
    "avg": SkipOp.AVG_POOL,
}

_INPUT = re.compile(r"i(?P<size>\d+)_c(?P<channels>\d+)_w(?P<width>\d+(?:\.\d+)?)")
_STEM = re.compile(r"stem(?P<filters>\d+)_s(?P<stride>\d)(?P=stride)")
_BLOCK = re.compile(
    r"r(?P<layers>\d+)_k(?P<kernel>\d+)_s(?P<stride>\d)(?P=stride)"
    r"_(?:e(?P<expansion>\d+)|(?P<conv>conv))(?:_i(?P<inputs>\d+))?_o(?P<filters>\d+)"
    r"(?:_se(?P<se>\d+(?:\.\d+)?))?(?:_(?P<skip>noskip|max|avg))?"
)
_HEAD = re.compile(r"head(?P<filters>\d+)")
_CLASSES = re.compile(r"n(?P<classes>\d+)")
_EXAMPLE = "r3_k5_s22_e6_i40_o80_se0.25_noskip"
_REMEMBERED = 1 << 14
"""How many blocks and layers are kept: networks of one space are put together from the same few."""


def scale_filters(filters: int, depth_multiplier: float) -> int:
    """Return `filters` scaled by `depth_multiplier` and rounded as the MnasNet authors do.

    To the nearest multiple of eight, at least eight, and never more than 10% below the scaled value
    (`round_filters` in their `mnasnet_model.py`). A multiplier of one leaves the filters as they are.
    """
    if depth_multiplier == 1.0:
        return filters
    return round_filters(filters * depth_multiplier)


def round_filters(filters: float) -> int:
    """Return the nearest multiple of eight that is at least eight and at most 10% below `filters`."""
    half = CHANNEL_DIVISOR // 2
    rounded = max(CHANNEL_DIVISOR, int(filters + half) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded + CHANNEL_DIVISOR if rounded < 0.9 * filters else rounded


@dataclass(frozen=True, slots=True)
class Block:
    """A run of `layers` equal layers, of which only the first may have a stride (paper, figure 3).

    `filters` is the number of output filters before the depth multiplier; `expansion` is 1 unless the
    operation is an inverted bottleneck; `se_ratio` 0 means no squeeze-and-excitation.
    """

    conv_op: ConvOp
    kernel_size: int
    stride: int
    filters: int
    layers: int
    expansion: int = 1
    se_ratio: float = 0.0
    skip_op: SkipOp = SkipOp.IDENTITY

    def __post_init__(self) -> None:
        if self.kernel_size not in KERNEL_SIZES:
            raise SpaceError(f"a block's kernel size must be 1, 3, 5 or 7, not {self.kernel_size}")
        if self.stride not in (1, 2):
            raise SpaceError(f"a block's stride must be 1 or 2, not {self.stride}")
        if self.filters < 1:
            raise SpaceError(f"a block must have at least one filter, not {self.filters}")
        if self.layers < 1:
            raise SpaceError(f"a block must have at least one layer, not {self.layers}")
        if (self.conv_op is ConvOp.MBCONV) != (self.expansion >= 2):
            raise SpaceError(
                f"expansion is 2 or more for mbconv and 1 for every other operation, "
                f"not {self.expansion} for {self.conv_op.value}"
            )
        if self.se_ratio != 0.0 and not MIN_SE_RATIO <= self.se_ratio <= 1.0:
            raise SpaceError(
                f"a squeeze-and-excitation ratio must be 0 or in {MIN_SE_RATIO}..1, not {self.se_ratio}"
            )


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with everything resolved: what `models/` builds and what costs are counted from.

    Channels are scaled and rounded. `expanded_channels` is the width of the depthwise convolution (for a
    regular convolution the output's), `se_channels` the width inside squeeze-and-excitation (0: none), and
    `skip_op` is `NONE` where the block's skip cannot apply.
    """

    conv_op: ConvOp
    kernel_size: int
    stride: int
    in_channels: int
    expanded_channels: int
    out_channels: int
    se_channels: int
    skip_op: SkipOp
    input_size: int

    @property
    def output_size(self) -> int:
        """Height and width of the output, with padding of half the kernel."""
        return -(-self.input_size // self.stride)


@dataclass(frozen=True)
class Architecture:
    """A whole network: input, stem, blocks, head. Equal fields are equal architectures.

    `depth_multiplier` scales the stem and the blocks, never the head (paper, "Sensitivity to Model Scaling";
    the head as in the authors' code). Raises `SpaceError` where the fields break a rule.
    """

    blocks: tuple[Block, ...]
    input_size: int = 224
    input_channels: int = 3
    stem_filters: int = 32
    stem_stride: int = 2
    head_filters: int = 1280
    classes: int = 1000
    depth_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not self.blocks:
            raise SpaceError("an architecture needs at least one block, and this one has none")
        for name in ("input_size", "input_channels", "stem_filters", "head_filters", "classes"):
            if getattr(self, name) < 1:
                raise SpaceError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.stem_stride not in (1, 2):
            raise SpaceError(f"the stem's stride must be 1 or 2, not {self.stem_stride}")
        if not 0.01 <= self.depth_multiplier <= 10.0:
            raise SpaceError(
                f"the depth multiplier must be in 0.01..10, not {self.depth_multiplier}"
            )

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem, scaled."""
        return scale_filters(self.stem_filters, self.depth_multiplier)

    @property
    def stem_output_size(self) -> int:
        """Height and width of the stem's output."""
        return -(-self.input_size // self.stem_stride)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """The shape (1,C,H,W) of one image."""
        return (1, self.input_channels, self.input_size, self.input_size)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer between stem and head, in order, with channels and sizes resolved."""
        layers: list[Layer] = []
        channels = self.stem_channels
        size = self.stem_output_size
        for block in self.blocks:
            out_channels = scale_filters(block.filters, self.depth_multiplier)
            layers += _resolve(block, channels, out_channels, size)
            channels, size = out_channels, layers[-1].output_size
        return tuple(layers)

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that are equal for architectures which build the same network.

        Two notations can mean one network: a skip that never applies, or filters that round alike.
        """
        parts = [
            f"{self.input_size},{self.input_channels},{self.stem_channels},{self.stem_stride},"
            f"{self.head_filters},{self.classes}"
        ]
        for layer in self.layers:
            parts.append(
                f"{layer.conv_op.value},{layer.kernel_size},{layer.stride},{layer.expanded_channels},"
                f"{layer.out_channels},{layer.se_channels},{layer.skip_op.value}"
            )
        return hashlib.sha256(";".join(parts).encode()).hexdigest()[:12]

    @cached_property
    def notation(self) -> str:
        """The one-line notation; `Architecture.parse` reads it back to an equal architecture."""
        parts = [
            f"i{self.input_size}_c{self.input_channels}_w{plain_number(self.depth_multiplier)}",
            f"stem{self.stem_filters}_s{self.stem_stride}{self.stem_stride}",
        ]
        inputs = self.stem_filters
        for block in self.blocks:
            op = "conv" if block.conv_op is ConvOp.CONV else f"e{block.expansion}"
            squeeze = f"_se{plain_number(block.se_ratio)}" if block.se_ratio else ""
            parts.append(
                f"r{block.layers}_k{block.kernel_size}_s{block.stride}{block.stride}_{op}"
                f"_i{inputs}_o{block.filters}{squeeze}{_SKIP_SUFFIX[block.skip_op]}"
            )
            inputs = block.filters
        return ":".join([*parts, f"head{self.head_filters}", f"n{self.classes}"])

    def __str__(self) -> str:
        return self.notation

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Return the architecture that the notation `text` means.

        Raises:
            SpaceError: naming the part that cannot be read, or the rule that it breaks.
        """
        parts = text.strip().split(":")
        if len(parts) < 5:
            raise SpaceError(
                f"a notation must be INPUT:STEM:BLOCK[:BLOCK...]:HEAD:CLASSES, not {text!r}; "
                f"`tvm-mnas space show quickstart --sample 1` prints one"
            )
        source = _match(_INPUT, parts[0], "input", "i224_c3_w1")
        stem = _match(_STEM, parts[1], "stem", "stem32_s22")
        head = _match(_HEAD, parts[-2], "head", "head1280")
        classes = _match(_CLASSES, parts[-1], "classes", "n1000")
        inputs = int(stem["filters"])
        blocks: list[Block] = []
        for part in parts[2:-2]:
            block, stated_inputs = _parse_block(part)
            if stated_inputs is not None and stated_inputs != inputs:
                raise SpaceError(
                    f"a block's input filters are the output filters before it, {inputs}, "
                    f"not {stated_inputs} in {part!r}"
                )
            blocks.append(block)
            inputs = block.filters
        return cls(
            blocks=tuple(blocks),
            input_size=int(source["size"]),
            input_channels=int(source["channels"]),
            stem_filters=int(stem["filters"]),
            stem_stride=int(stem["stride"]),
            head_filters=int(head["filters"]),
            classes=int(classes["classes"]),
            depth_multiplier=float(source["width"]),
        )


@lru_cache(_REMEMBERED)
def _resolve(block: Block, in_channels: int, out_channels: int, size: int) -> tuple[Layer, ...]:
    """Return the layers of `block`: the first has its stride, and those after it are all alike."""
    first = _resolve_layer(block, block.stride, in_channels, out_channels, size)
    later = _resolve_layer(block, 1, out_channels, out_channels, first.output_size)
    return (first, *[later] * (block.layers - 1))


def _resolve_layer(
    block: Block, stride: int, in_channels: int, out_channels: int, size: int
) -> Layer:
    skip_op = block.skip_op
    if in_channels != out_channels or (skip_op is SkipOp.IDENTITY and stride != 1):
        skip_op = SkipOp.NONE
    if block.conv_op is ConvOp.CONV:
        expanded = out_channels
    else:
        expanded = in_channels * block.expansion
    se_channels = max(1, int(in_channels * block.se_ratio)) if block.se_ratio else 0
    return Layer(
        conv_op=block.conv_op,
        kernel_size=block.kernel_size,
        stride=stride,
        in_channels=in_channels,
        expanded_channels=expanded,
        out_channels=out_channels,
        se_channels=se_channels,
        skip_op=skip_op,
        input_size=size,
    )


def plain_number(number: float) -> str:
    """Return the shortest text that reads back as `number`, without a fraction where there is none."""
    return repr(float(number)).removesuffix(".0")


def _match(pattern: re.Pattern[str], part: str, what: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(part)
    if match is None:
        raise SpaceError(f"the {what} of a notation reads like {example!r}, not {part!r}")
    return match


@lru_cache(_REMEMBERED)
def _parse_block(part: str) -> tuple[Block, int | None]:
    found = _match(_BLOCK, part, "block", _EXAMPLE)
    expansion = int(found["expansion"]) if found["expansion"] else 1
    if found["conv"]:
        conv_op = ConvOp.CONV
    else:
        conv_op = ConvOp.SEPCONV if expansion == 1 else ConvOp.MBCONV
    block = Block(
        conv_op=conv_op,
        kernel_size=int(found["kernel"]),
        stride=int(found["stride"]),
        filters=int(found["filters"]),
        layers=int(found["layers"]),
        expansion=expansion,
        se_ratio=float(found["se"] or 0.0),
        skip_op=_SKIP_OF_WORD[found["skip"] or ""],
    )
    return block, int(found["inputs"]) if found["inputs"] else None
