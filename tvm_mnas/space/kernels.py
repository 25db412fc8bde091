"""The kernels of a whole space: every distinct layer shape counted exactly, and a few networks that have them all.

What runs on a device is kernels, and a kernel is tuned once for all networks that share its shape. A layer's
shape depends only on its block's choices and on the filters that the block before it leaves, so a walk over
blocks, with the filters as its state, meets every shape of a space without listing its architectures.

Shapes are the architecture's own: a device that pads channels to whole vectors may merge a few of them, and what waits
for memory there is one kernel with its neighbours.
Element-wise work (gating, an addition that no convolution takes along) is not counted: nothing is tuned there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tvm_mnas.space.architecture import Architecture, Block, ConvOp, Layer, SkipOp
from tvm_mnas.space.space import BlockSpace, SearchSpace


@dataclass(frozen=True, slots=True, order=True)
class KernelShape:
    """One layer shape with what is fused into it. Equal shapes are tuned once.

    `operation` is `conv`, `depthwise`, `dense` (of squeeze-and-excitation or the classifier), `mean pool` (of
    the whole image), `max pool` or `avg pool`; `activation` is `relu`, `sigmoid` or nothing; `residual` tells
    that a skip is added to the output.
    """

    operation: str
    kernel_size: int
    stride: int
    in_channels: int
    out_channels: int
    input_size: int
    activation: str = ""
    residual: bool = False

    @property
    def output_size(self) -> int:
        """Height and width of the output."""
        return 1 if self.operation == "mean pool" else -(-self.input_size // self.stride)

    @property
    def kind(self) -> str:
        """What people call it, such as `depthwise 5x5 stride 2` or `pointwise`."""
        if self.operation in ("dense", "mean pool"):
            return self.operation
        if self.operation == "conv" and self.kernel_size == 1:
            return "pointwise" if self.stride == 1 else f"pointwise stride {self.stride}"
        size = f"{self.kernel_size}x{self.kernel_size}"
        return f"{self.operation} {size} stride {self.stride}"

    @property
    def mult_adds(self) -> int:
        """Mult-adds of one call; pooling has none, as in `models/cost.py`."""
        if self.operation.endswith("pool"):
            return 0
        per_group = 1 if self.operation == "depthwise" else self.in_channels
        return self.kernel_size**2 * per_group * self.out_channels * self.output_size**2


@dataclass(frozen=True)
class SpaceKernels:
    """The distinct kernels of a space, and the range of its networks' mult-adds.

    `parts` holds, in order, `stem`, `block1`... and `head`, each with its distinct kernels; a kernel that occurs
    in two parts is in both, and once in `distinct`.
    """

    parts: tuple[tuple[str, frozenset[KernelShape]], ...]
    least_mult_adds: int
    most_mult_adds: int

    @property
    def distinct(self) -> frozenset[KernelShape]:
        """Every kernel that some network of the space has."""
        return frozenset().union(*(kernels for _, kernels in self.parts))

    @property
    def kinds(self) -> dict[str, int]:
        """The number of distinct kernels of each kind, by name."""
        counts: dict[str, int] = {}
        for kernel in sorted(self.distinct, key=lambda kernel: kernel.kind):
            counts[kernel.kind] = counts.get(kernel.kind, 0) + 1
        return counts


@dataclass(frozen=True, slots=True)
class _Step:
    """One block as chosen, after a block that left `before` filters: its kernels, one for each call."""

    before: int
    block: Block
    kernels: tuple[KernelShape, ...]


def architecture_kernels(architecture: Architecture) -> tuple[KernelShape, ...]:
    """Return the kernels of `architecture` in the order of its layers, one for each call."""
    last = architecture.layers[-1]
    return (
        _stem_kernel(architecture),
        *(kernel for layer in architecture.layers for kernel in _layer_kernels(layer)),
        *_head_kernels(architecture, last.out_channels, last.output_size),
    )


def count_kernels(space: SearchSpace) -> SpaceKernels:
    """Return the distinct kernels of all of `space`, exactly, and the range of its networks' mult-adds."""
    first = space.decode([0] * len(space.decisions))
    stem = _stem_kernel(first)
    parts = [("stem", frozenset([stem]))]
    # From the filters that the last block leaves to the least and most mult-adds so far.
    ranges = {space.stem_filters: (stem.mult_adds, stem.mult_adds)}
    for number, steps in enumerate(_steps(space), start=1):
        reached: dict[int, tuple[int, int]] = {}
        kernels: set[KernelShape] = set()
        for step in steps:
            kernels.update(step.kernels)
            cost = sum(kernel.mult_adds for kernel in step.kernels)
            least, most = (bound + cost for bound in ranges[step.before])
            known = reached.get(step.block.filters, (least, most))
            reached[step.block.filters] = min(known[0], least), max(known[1], most)
        parts.append((f"block{number}", frozenset(kernels)))
        ranges = reached
    heads = {filters: _space_head(space, filters) for filters in ranges}
    parts.append(("head", frozenset(kernel for head in heads.values() for kernel in head)))
    costs = {filters: sum(kernel.mult_adds for kernel in head) for filters, head in heads.items()}
    return SpaceKernels(
        parts=tuple(parts),
        least_mult_adds=min(least + costs[filters] for filters, (least, _) in ranges.items()),
        most_mult_adds=max(most + costs[filters] for filters, (_, most) in ranges.items()),
    )


def cover(space: SearchSpace, seed: int) -> tuple[Architecture, ...]:
    """Return a few architectures in which every distinct kernel of `space` occurs, most new ones first.

    Each is the path through the blocks with the most kernels that none before has (those in two of its blocks
    count twice, so the set is small, not smallest). Ties are broken by `seed`; equal seeds give equal sets.
    """
    rng = random.Random(seed)
    # A set of kernels is an integer with a bit for each: the steps are counted anew for every architecture.
    bits = {kernel: 1 << bit for bit, kernel in enumerate(sorted(count_kernels(space).distinct))}
    blocks = [[(step, _mask(step.kernels, bits)) for step in steps] for steps in _steps(space)]
    last_filters = {step.block.filters for step, _ in blocks[-1]}
    heads = {filters: _mask(_space_head(space, filters), bits) for filters in last_filters}
    missing = sum(bits.values())
    skeleton = space.decode([0] * len(space.decisions))
    chosen: list[Architecture] = []
    while missing:
        # For each number of filters: how many missing kernels the best path there has, and its blocks.
        best: dict[int, tuple[int, tuple[Block, ...]]] = {space.stem_filters: (0, ())}
        for steps in blocks:
            rng.shuffle(steps)
            reached: dict[int, tuple[int, tuple[Block, ...]]] = {}
            for step, mask in steps:
                count, path = best[step.before]
                count += (mask & missing).bit_count()
                if step.block.filters not in reached or count > reached[step.block.filters][0]:
                    reached[step.block.filters] = count, (*path, step.block)
            best = reached
        last = max(
            best, key=lambda filters: best[filters][0] + (heads[filters] & missing).bit_count()
        )
        architecture = Architecture(
            blocks=best[last][1],
            input_size=skeleton.input_size,
            input_channels=skeleton.input_channels,
            stem_filters=skeleton.stem_filters,
            stem_stride=skeleton.stem_stride,
            head_filters=skeleton.head_filters,
            classes=skeleton.classes,
            depth_multiplier=skeleton.depth_multiplier,
        )
        missing &= ~_mask(architecture_kernels(architecture), bits)
        chosen.append(architecture)
    return tuple(chosen)


def _mask(kernels: tuple[KernelShape, ...], bits: dict[KernelShape, int]) -> int:
    mask = 0
    for kernel in kernels:
        mask |= bits[kernel]
    return mask


def _steps(space: SearchSpace) -> Iterator[list[_Step]]:
    """Yield, for each block of `space`, every way to choose it after every block before it."""
    size = space.decode([0] * len(space.decisions)).stem_output_size
    befores = {space.stem_filters}
    for block_space in space.blocks:
        steps = []
        for before, block in itertools.product(sorted(befores), list(_choices(block_space))):
            # A network of this block alone, whose stem hands on what the block before would.
            alone = Architecture(
                blocks=(block,),
                input_size=size,
                stem_filters=before,
                stem_stride=1,
                depth_multiplier=space.depth_multiplier,
            )
            kernels = tuple(kernel for layer in alone.layers for kernel in _layer_kernels(layer))
            steps.append(_Step(before, block, kernels))
        yield steps
        befores = set(block_space.filters)
        size = -(-size // block_space.stride)


def _choices(space: BlockSpace) -> Iterator[Block]:
    for operation, kernel_size, skip_op, se_ratio, filters, layers in itertools.product(
        space.operations,
        space.kernel_sizes,
        space.skip_ops,
        space.se_ratios,
        space.filters,
        space.layers,
    ):
        yield space.block(operation, kernel_size, skip_op, se_ratio, filters, layers)


def _stem_kernel(architecture: Architecture) -> KernelShape:
    return KernelShape(
        "conv",
        3,
        architecture.stem_stride,
        architecture.input_channels,
        architecture.stem_channels,
        architecture.input_size,
        "relu",
    )


def _space_head(space: SearchSpace, filters: int) -> tuple[KernelShape, ...]:
    """Return the head's kernels where the last block of `space` leaves `filters`."""
    skeleton = space.decode([0] * len(space.decisions))
    alone = Architecture(
        blocks=(Block(ConvOp.CONV, 1, 1, filters, 1),), depth_multiplier=space.depth_multiplier
    )
    return _head_kernels(skeleton, alone.layers[-1].out_channels, skeleton.layers[-1].output_size)


def _head_kernels(architecture: Architecture, channels: int, size: int) -> tuple[KernelShape, ...]:
    head = architecture.head_filters
    return (
        KernelShape("conv", 1, 1, channels, head, size, "relu"),
        KernelShape("mean pool", size, 1, head, head, size),
        KernelShape("dense", 1, 1, head, architecture.classes, 1),
    )


@lru_cache(1 << 14)
def _layer_kernels(layer: Layer) -> tuple[KernelShape, ...]:
    """Return the kernels of `layer` as `models/network.py` builds it."""
    kernels: list[KernelShape] = []
    wide, size, residual = (
        layer.expanded_channels,
        layer.output_size,
        layer.skip_op is not SkipOp.NONE,
    )
    if layer.conv_op is ConvOp.MBCONV:
        kernels.append(KernelShape("conv", 1, 1, layer.in_channels, wide, layer.input_size, "relu"))
    regular = layer.conv_op is ConvOp.CONV
    kernels.append(
        KernelShape(
            "conv" if regular else "depthwise",
            layer.kernel_size,
            layer.stride,
            layer.in_channels if regular else wide,
            wide,
            layer.input_size,
            "relu",
            # With squeeze-and-excitation the addition follows the gate instead.
            regular and residual and not layer.se_channels,
        )
    )
    if layer.se_channels:
        kernels.append(KernelShape("mean pool", size, 1, wide, wide, size))
        kernels.append(KernelShape("dense", 1, 1, wide, layer.se_channels, 1, "relu"))
        kernels.append(KernelShape("dense", 1, 1, layer.se_channels, wide, 1, "sigmoid"))
    if not regular:
        out = layer.out_channels
        kernels.append(KernelShape("conv", 1, 1, wide, out, size, residual=residual))
    if layer.skip_op in (SkipOp.MAX_POOL, SkipOp.AVG_POOL):
        pool = layer.skip_op.value.replace("_", " ")
        channels = layer.in_channels
        kernels.append(KernelShape(pool, 3, layer.stride, channels, channels, layer.input_size))
    return tuple(kernels)
