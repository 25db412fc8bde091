"""A space file around one network: its skeleton, and for each block the values next to its own.

    operation   the expansions above and below (a separable convolution is expansion 1; a regular one stays)
    kernel      3 and 5, and the network's own with one of them where that is 1 or 7
    filters     0.75, 1 and 1.25 times the block's
    layers      one less, the same, one more

Skips and squeeze-and-excitation stay as the network has them. The network is in the space.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture, Block, ConvOp, plain_number
from tvm_mnas.space.files import parse_space
from tvm_mnas.space.space import SearchSpace

EXPANSIONS = (1, 2, 3, 4, 6, 8, 10)
"""The steps between which neighbours are looked for: the paper's 3 and 6, and what lies around them."""
KERNEL_SIZES = {1: (1, 3), 3: (3, 5), 5: (3, 5), 7: (5, 7)}
FILTER_SCALES = (0.75, 1.0, 1.25)
LAYER_DELTAS = (-1, 0, 1)

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def derive_space(architecture: Architecture, model: str) -> str:
    """Return a space file, as TOML text, in which `architecture` is; `model` is what people call it.

    Raises:
        SpaceError: if a block has an expansion that no space offers.
    """
    # It goes into a comment of one line.
    model = "".join(letter if letter.isprintable() else "?" for letter in model.strip())
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")
    name = f"around-{word if _WORD.fullmatch(word) else architecture.id}"
    body = _body(architecture, name)
    path = Path(f"{name}.toml")
    space = parse_space(body, path)
    # Told here, not in a search: the network that a space is around has tokens.
    space.encode(architecture)
    return _header(space, architecture, model) + body


def _header(space: SearchSpace, architecture: Architecture, model: str) -> str:
    called = "" if model == architecture.notation else f" {model}"
    lines = [
        f"Around{called}: `tvm-mnas space derive` wrote this.",
        architecture.notation,
        "",
        "Its size: operations x kernels x filters x layers of each block. Filters round to multiples of eight and",
        "layers are at least one, so that some blocks have fewer.",
        "",
    ]
    sizes = []
    for number, block in enumerate(space.blocks, start=1):
        choices = (block.operations, block.kernel_sizes, block.filters, block.layers)
        factors = [len(values) for values in choices]
        sizes.append(math.prod(factors))
        lines.append(f"    block {number}: {' * '.join(map(str, factors))} = {sizes[-1]}")
    lines.append(f"    {' * '.join(map(str, sizes))} = {space.size:,}")
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"


def _body(architecture: Architecture, name: str) -> str:
    multiplier = plain_number(architecture.depth_multiplier)
    lines = [
        f'name = "{name}"',
        "",
        "[input]",
        f"size = {architecture.input_size}",
        f"channels = {architecture.input_channels}",
        f"classes = {architecture.classes}",
        *([] if multiplier == "1" else [f"depth_multiplier = {multiplier}"]),
        "",
        "[stem]",
        f"filters = {architecture.stem_filters}",
        f"stride = {architecture.stem_stride}",
        "",
        "[head]",
        f"filters = {architecture.head_filters}",
        "",
        "[choices]",
        f"filter_scale = {list(FILTER_SCALES)}",
        f"layer_delta = {list(LAYER_DELTAS)}",
    ]
    resolution = architecture.stem_output_size
    for number, block in enumerate(architecture.blocks, start=1):
        operations = ", ".join(f'"{operation}"' for operation in _operations(block, number))
        lines += [
            "",
            "[[blocks]]",
            f"resolution = {resolution}",
            f"stride = {block.stride}",
            f"filters = {block.filters}",
            f"layers = {block.layers}",
            f"conv_op = [{operations}]",
            f"kernel_size = {list(KERNEL_SIZES[block.kernel_size])}",
            f'skip_op = ["{block.skip_op.value}"]',
            f"se_ratio = [{float(block.se_ratio)!r}]",
        ]
        resolution = -(-resolution // block.stride)
    return "\n".join(lines) + "\n"


def _operations(block: Block, number: int) -> tuple[str, ...]:
    """Return the names of the operations next to `block`'s, its own among them, by rising expansion."""
    if block.conv_op is ConvOp.CONV:
        return (block.conv_op.value,)
    own = block.expansion
    if own > EXPANSIONS[-1]:
        raise SpaceError(
            f"a space has expansions up to {EXPANSIONS[-1]}, and block {number} of this network has {own}; "
            f"lower the e{own} of its notation"
        )
    below = [expansion for expansion in EXPANSIONS if expansion < own]
    above = [expansion for expansion in EXPANSIONS if expansion > own]
    expansions = (*below[-1:], own, *above[:1])
    return tuple("sepconv" if each == 1 else f"mbconv{each}" for each in expansions)
