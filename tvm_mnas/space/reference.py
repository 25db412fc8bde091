"""What a space file may say: the keys that `files.py` reads, and the Markdown page that lists them.

The parser takes its keys and the page its permitted values from here, so that neither knows a key that the
other lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mnas.space.architecture import KERNEL_SIZES, MIN_SE_RATIO, SkipOp
from tvm_mnas.space.space import OPERATIONS

EXAMPLE = """\
name = "shoes"
description = "a line for whoever reads the file"

[input]
size = 32                 # height and width of the images
channels = 3
classes = 10
depth_multiplier = 1.0    # scales the filters of stem and blocks

[stem]                    # the first convolution
filters = 16
stride = 2

[head]                    # the last 1x1 convolution
filters = 256

[choices]                 # what every block chooses from
conv_op = ["sepconv", "mbconv3", "mbconv6"]
kernel_size = [3, 5]
skip_op = ["identity"]
se_ratio = [0.0, 0.25]
filter_scale = [0.75, 1.0, 1.25]
layer_delta = [-1, 0, 1]

[[blocks]]
resolution = 16           # of its input
stride = 1
filters = 16
layers = 1

[[blocks]]
resolution = 16
stride = 2
filters = 24
layers = 2
conv_op = ["mbconv6"]     # a block may have its own list for any choice
"""
"""A file that uses every key."""

_COUNT = "a whole number, 1 or more"


@dataclass(frozen=True, slots=True)
class SpaceKey:
    """One key: the table that it stands in ("" for the top of the file), its permitted values and its meaning."""

    table: str
    name: str
    values: str
    meaning: str


def _words(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


_KEYS = (
    SpaceKey("", "name", "a text", "what the space is called in runs and tables"),
    SpaceKey("", "description", "a text, optional", "for whoever reads the file"),
    SpaceKey("input", "size", _COUNT, "height and width of the images, in pixels"),
    SpaceKey("input", "channels", _COUNT, "channels of the images"),
    SpaceKey("input", "classes", _COUNT, "outputs of the network"),
    SpaceKey(
        "input",
        "depth_multiplier",
        "a number, 1.0 if absent",
        "scales the filters of the stem and of every block",
    ),
    SpaceKey("stem", "filters", _COUNT, "output filters of the first convolution"),
    SpaceKey("stem", "stride", _COUNT, "stride of the first convolution"),
    SpaceKey("head", "filters", _COUNT, "output filters of the last 1x1 convolution"),
    SpaceKey(
        "choices",
        "conv_op",
        _words(OPERATIONS),
        "a regular convolution, a depthwise separable one, or an inverted bottleneck with that expansion",
    ),
    SpaceKey(
        "choices",
        "kernel_size",
        ", ".join(map(str, KERNEL_SIZES)),
        "height and width of the block's convolution",
    ),
    SpaceKey(
        "choices",
        "skip_op",
        _words(tuple(op.value for op in SkipOp)),
        "what is added to a layer's output",
    ),
    SpaceKey(
        "choices",
        "se_ratio",
        f"0, or {MIN_SE_RATIO} to 1",
        "squeeze-and-excitation: its width as a part of the block's, 0 for none",
    ),
    SpaceKey("choices", "filter_scale", "numbers above 0", "times the block's `filters`"),
    SpaceKey("choices", "layer_delta", "whole numbers", "plus the block's `layers`"),
    SpaceKey(
        "blocks",
        "resolution",
        _COUNT,
        "height and width of the block's input; it follows from the strides before it and is checked",
    ),
    SpaceKey("blocks", "stride", "1 or 2", "stride of the block's first layer"),
    SpaceKey("blocks", "filters", _COUNT, "output filters, before `filter_scale`"),
    SpaceKey("blocks", "layers", _COUNT, "layers, before `layer_delta`"),
)
_TABLES = (
    ("", "The top of the file"),
    ("input", "`[input]`"),
    ("stem", "`[stem]`"),
    ("head", "`[head]`"),
    ("choices", "`[choices]`, for all blocks; a block may have its own list of any of these"),
    ("blocks", "`[[blocks]]`, one or more, from the input to the output"),
)


def key_names(table: str) -> tuple[str, ...]:
    """Return the keys of this table of a space file, "" for the top of the file, in their order."""
    return tuple(key.name for key in _KEYS if key.table == table)


def space_reference() -> str:
    """Return the reference of the space file as Markdown: every key, its permitted values, an example."""
    lines = [
        "A space file is TOML. Each choice is a list: with one value it is fixed, with two or more it is a decision",
        "of the search. Scaled filters are rounded to multiples of eight as the MnasNet authors round, a block has",
        "at least one layer, and values that become equal count once.",
    ]
    for table, title in _TABLES:
        lines += ["", f"## {title}", "", "| key | values | meaning |", "| --- | --- | --- |"]
        lines += [
            f"| `{key.name}` | {key.values} | {key.meaning} |"
            for key in _KEYS
            if key.table == table
        ]
    lines += ["", "## An example", "", "```toml", EXAMPLE.rstrip("\n"), "```"]
    return "\n".join(lines)
