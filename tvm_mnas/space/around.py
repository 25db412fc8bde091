"""The space around one network: its skeleton, and what lies near each of its blocks."""

from __future__ import annotations

from tvm_mnas.space.architecture import Architecture, Block, ConvOp

_KERNEL_SIZES = (3, 5)
_OPERATIONS = ("sepconv", "mbconv3", "mbconv6")


def space_around(architecture: Architecture, *, name: str) -> str:
    """Return a space file, as TOML text, in which `architecture` is one choice among those near it.

    Strides, stem, head and input are those of the network. Each block chooses its operation among separable
    convolutions and inverted bottlenecks of expansion 3 and 6, its kernel among 3x3 and 5x5, its filters among 0.75,
    1 and 1.25 times its own and its layers among one less, its own and one more; its skip and its
    squeeze-and-excitation stay. Values of its own that are others come first.
    """
    lines = [
        f"# The space around {architecture.notation}",
        "# in which each block may take another operation, kernel, number of filters and of layers.",
        "",
        f'name = "{name}"',
        f'description = "around one network of {len(architecture.blocks)} blocks"',
        "",
        "[input]",
        f"size = {architecture.input_size}",
        f"channels = {architecture.input_channels}",
        f"classes = {architecture.classes}",
        f"depth_multiplier = {architecture.depth_multiplier!r}",
        "",
        "[stem]",
        f"filters = {architecture.stem_filters}",
        f"stride = {architecture.stem_stride}",
        "",
        "[head]",
        f"filters = {architecture.head_filters}",
        "",
        "[choices]",
        "filter_scale = [0.75, 1.0, 1.25]",
        "layer_delta = [-1, 0, 1]",
    ]
    resolution = architecture.stem_output_size
    for block in architecture.blocks:
        lines += _block_lines(block, resolution)
        resolution = -(-resolution // block.stride)
    return "\n".join(lines) + "\n"


def _block_lines(block: Block, resolution: int) -> list[str]:
    own = block.conv_op.value
    if block.conv_op is ConvOp.MBCONV:
        own += str(block.expansion)
    operations = dict.fromkeys((*(() if own in _OPERATIONS else (own,)), *_OPERATIONS))
    kernels = dict.fromkeys(
        (*(() if block.kernel_size in _KERNEL_SIZES else (block.kernel_size,)), *_KERNEL_SIZES)
    )
    quoted = ", ".join(f'"{operation}"' for operation in operations)
    return [
        "",
        "[[blocks]]",
        f"resolution = {resolution}",
        f"stride = {block.stride}",
        f"filters = {block.filters}",
        f"layers = {block.layers}",
        f"conv_op = [{quoted}]",
        f"kernel_size = [{', '.join(map(str, kernels))}]",
        f'skip_op = ["{block.skip_op.value}"]',
        f"se_ratio = [{block.se_ratio!r}]",
    ]
