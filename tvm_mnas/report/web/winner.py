"""The winner, block by block, and its kernels before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mnas.evaluation.kernel_times import KernelFacts
from tvm_mnas.models.cost import count_cost, layer_cost
from tvm_mnas.space.architecture import Architecture, Block, ConvOp, Layer, SkipOp

_OPERATIONS = {ConvOp.CONV: "conv", ConvOp.SEPCONV: "sepconv"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One block of a network as it is drawn: what it does, to which image, and its part of the mult-adds.

    `kind` is the operation without its expansion, which gives the colour.
    """

    title: str
    kind: str
    details: tuple[str, ...]
    size: int
    mult_adds_percent: float


@dataclass(frozen=True, slots=True)
class KernelBar:
    """One kernel of the winner: its calls, its share of the run time, its times and how near it is to the core's limit.

    `untuned_us` and `limit_percent` are None where they are not known.
    """

    name: str
    calls: int
    share_percent: float
    untuned_us: float | None
    tuned_us: float
    limit_percent: float | None

    @property
    def speed_up(self) -> float | None:
        """How many times faster than as TVM builds it by itself."""
        return None if self.untuned_us is None else self.untuned_us / self.tuned_us


def stages_of(architecture: Architecture) -> tuple[Stage, ...]:
    """Return stem, blocks and head of a network, in the order of an image's way through it."""
    total = count_cost(architecture).mult_adds
    layers = iter(architecture.layers)
    stages: list[Stage] = []
    inner = 0
    for block in architecture.blocks:
        mine = [next(layers) for _ in range(block.layers)]
        cost = sum(layer_cost(layer).mult_adds for layer in mine)
        inner += cost
        stages.append(
            Stage(
                title=_title(block),
                kind=block.conv_op.value,
                details=_details(block, mine),
                size=mine[-1].output_size,
                mult_adds_percent=100.0 * cost / total,
            )
        )
    stem_size = architecture.stem_output_size
    stem = 9 * architecture.input_channels * architecture.stem_channels * stem_size**2
    return (
        Stage(
            title="stem, conv 3x3",
            kind="ends",
            details=(f"{architecture.stem_channels} channels", f"from {architecture.input_size}²"),
            size=stem_size,
            mult_adds_percent=100.0 * stem / total,
        ),
        *stages,
        Stage(
            title="head",
            kind="ends",
            details=(f"{architecture.head_filters} channels", f"{architecture.classes} classes"),
            size=1,
            mult_adds_percent=100.0 * (total - inner - stem) / total,
        ),
    )


def kernel_bars(kernels: Sequence[KernelFacts]) -> tuple[KernelBar, ...]:
    """Return the kernels of a network, the one that most time is spent in first."""
    total_us = sum(kernel.calls * kernel.tuned_us for kernel in kernels)
    bars = [
        KernelBar(
            name=kernel.name,
            calls=kernel.calls,
            share_percent=100.0 * kernel.calls * kernel.tuned_us / total_us,
            untuned_us=kernel.untuned_us,
            tuned_us=kernel.tuned_us,
            limit_percent=None
            if kernel.limit_us is None
            else min(100.0, 100.0 * kernel.limit_us / kernel.tuned_us),
        )
        for kernel in kernels
    ]
    return tuple(sorted(bars, key=lambda bar: -bar.share_percent))


def _title(block: Block) -> str:
    operation = _OPERATIONS.get(block.conv_op, f"mbconv{block.expansion}")
    return f"{operation} {block.kernel_size}x{block.kernel_size}"


def _details(block: Block, layers: Sequence[Layer]) -> tuple[str, ...]:
    plural = "s" if len(layers) > 1 else ""
    details = [f"{len(layers)} layer{plural}", f"{layers[-1].out_channels} channels"]
    if block.se_ratio:
        details.append(f"squeeze-excite {block.se_ratio:g}")
    # Where sizes or channels differ there is none, whatever the block asks for.
    skips = [layer.skip_op for layer in layers if layer.skip_op is not SkipOp.NONE]
    if skips:
        details.append(f"skip {skips[0].value.replace('_', ' ')}")
    if block.stride > 1:
        details.append(f"stride {block.stride}")
    return tuple(details)
