"""Which register tiles to try for a convolution, the most promising first: arithmetic alone, no TVM.

A tile is the piece of the output that stays in vector registers while the sum over the inputs runs: `rows` x `columns`
pixels of `vectors` x `lanes` channels. Good code keeps both fused multiply-add units busy, so a tile is judged by the
cycles that one step of the sum takes: for the multiply-adds, for the loads, for the latency of an addition, and for
weights that come from beyond the first cache. The judgement only orders the schedules; the device measures them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import zip_longest

from tvm_mnas.cores.model import CoreModel

_LARGEST_BODY = 512
"""Multiply-adds in straight-line code: more do not fit the instruction cache and take long to compile."""
_FURTHER_ROW = 0.85
"""What a depthwise tile's second row costs, by measurement on an AMD EPYC with AVX-512."""
_PIXELS = 28
_ROWS = (1, 2, 3, 4, 7)
_FLAT_GAIN = 1.02
"""A tile that leaves a remainder must promise so much more than the best that leaves none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvShape:
    """A convolution's extents: the output's, the kernel's, and the channels that each sum runs over.

    `inputs` are those of one of the `groups`. `padded` says whether it reads beyond the image's edge.
    `weight_bytes` is the size of one weight. `pairs` says whether one instruction may take two inputs side by side and
    multiply each with its weight, as there are for bfloat16.
    """

    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    inputs: int
    groups: int
    stride: int
    padded: bool
    weight_bytes: int = 4
    pairs: bool = False

    @property
    def taps(self) -> int:
        """How many pixels each output sums over."""
        return self.kernel_height * self.kernel_width

    @property
    def flat(self) -> bool:
        """Whether its pixels may as well be one line: each output reads its own pixel alone."""
        return self.taps == self.stride == 1 and not self.padded and self.height > 1

    def paired(self) -> ConvShape:
        """Return what it is with each pair of inputs, and of their weights, as one."""
        return replace(
            self, inputs=self.inputs // 2, weight_bytes=2 * self.weight_bytes, pairs=False
        )

    @property
    def group_channels(self) -> int:
        """How many neighbouring outputs sum over the same inputs."""
        return self.channels // self.groups

    @property
    def weights_bytes(self) -> int:
        """The size of all weights."""
        return self.weight_bytes * self.taps * self.inputs * self.channels

    @property
    def depthwise(self) -> bool:
        """Whether each output has an input of its own, so that neighbours' inputs are vectors too."""
        return self.inputs == self.group_channels == 1 < self.channels

    @property
    def vector_channels(self) -> int:
        """What lanes divide: a group's outputs, so that a vector has one input, but where a group has only one."""
        return self.group_channels if self.group_channels > 1 else self.channels


class LoopOrder(StrEnum):
    """What the loops around a tile go through first."""

    CHANNELS_OUTSIDE = "channels-outside"
    """A slice of the weights stays in the cache while the pixels pass."""
    CHANNELS_INSIDE = "channels-inside"
    """The pixels of a tile stay in the cache while the weights pass."""


class PaddingSource(StrEnum):
    """Where the zeros around the image come from."""

    TESTED = "tested"
    """From a test at every read; the compiler moves it out of the vector loops."""
    COPIED = "copied"
    """From a copy of the image with zeros around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A register tile and the loops around it.

    A step of the sum takes `inputs` of each pixel. Where these are several they are loaded as a vector, of which the
    multiply-adds take lane after lane. A `flat` tile is of one row of all pixels, which it need not divide: what
    remains is a smaller tile. With `prefetch` the next weights are fetched while these are worked on. With `pairs` each
    input is two, which one instruction multiplies.
    """

    rows: int
    columns: int
    vectors: int
    lanes: int
    order: LoopOrder
    padding: PaddingSource
    inputs: int = 1
    flat: bool = False
    prefetch: bool = False
    pairs: bool = False

    @property
    def channels(self) -> int:
        """The channels of a tile."""
        return self.vectors * self.lanes

    @property
    def pixels(self) -> int:
        """The pixels of a tile."""
        return self.rows * self.columns


def rank_tiles(
    shape: ConvShape, core: CoreModel, *, pair_lanes: Collection[int] = ()
) -> list[Tile]:
    """Return the tiles that fit `shape` and the registers of `core`, the most promising first.

    Those of equal shape and different loops follow each other, so that few schedules see both. The core takes pairs of
    inputs in vectors of `pair_lanes` sums. Where the shape has pairs too, every other tile is for them: whether that is
    faster shows on the core.
    """
    if shape.pairs and pair_lanes:
        # An input that is tested at the edge is none that an instruction takes.
        pairs = [
            replace(tile, pairs=True)
            for tile in rank_tiles(shape.paired(), core)
            if tile.lanes in pair_lanes
            and not (shape.padded and tile.padding is PaddingSource.TESTED)
        ]
        taken = zip_longest(pairs, rank_tiles(shape, core))
        return [tile for both in taken for tile in both if tile is not None]
    inputs = _inputs_of_a_step(shape, core)

    def merit(extents: _Extents) -> tuple[float, float]:
        if inputs == 1:
            return _efficiency(shape, core, extents), -_loads_per_product(shape, extents)
        return _busy(core, extents), -_instructions_per_product(extents, inputs)

    found = list(_shapes(shape, core, inputs))
    if inputs == 1 and shape.flat:
        best = max((_efficiency(shape, core, one) for one in found), default=0.0)
        found += [
            one
            for one in _flat_shapes(shape, core, inputs)
            if _efficiency(shape, core, one) > _FLAT_GAIN * best
        ]
    return [
        Tile(
            rows=one.rows,
            columns=one.columns,
            vectors=one.vectors,
            lanes=one.lanes,
            order=order,
            padding=padding,
            inputs=inputs,
            flat=one.flat,
            prefetch=order is LoopOrder.CHANNELS_OUTSIDE and _prefetches(shape, core),
        )
        for one in sorted(found, key=merit, reverse=True)
        for padding in _paddings(shape)
        for order in _orders(shape)
    ]


@dataclass(frozen=True, slots=True)
class _Extents:
    """What is unrolled of a tile."""

    rows: int
    columns: int
    vectors: int
    lanes: int
    flat: bool = False

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def products(self) -> int:
        """The vector multiply-adds in a step of the sum, which is as many sums."""
        return self.pixels * self.vectors


def _inputs_of_a_step(shape: ConvShape, core: CoreModel) -> int:
    """Return how many inputs of a pixel are loaded at once: a vector where a multiply-add takes a lane of it."""
    if not core.multiplies_lanes or shape.taps > 1 or shape.groups > 1:
        return 1
    return next(count for count in (core.lanes, core.lanes // 2, 1) if shape.inputs % count == 0)


def _prefetches(shape: ConvShape, core: CoreModel) -> bool:
    """Whether a pointwise convolution has weights enough to wait for, and pixels to work on while they come.

    It is for a slice of them that the pixels pass: fetched anew for each tile of pixels they would be in the way.
    """
    several = shape.height * shape.width > 1
    return (
        shape.taps == shape.groups == 1 and several and shape.weights_bytes > core.first_cache_bytes
    )


def _shapes(shape: ConvShape, core: CoreModel, inputs: int) -> Iterator[_Extents]:
    """Yield what is unrolled of every tile that divides the output and fits the registers."""
    for lanes in vector_lengths(shape.vector_channels, core, powers_of_two=shape.depthwise):
        # One vector a pixel keeps a depthwise tile's tests at the edge few and its code short.
        for vectors in [1] if shape.depthwise else _divisors(shape.channels // lanes):
            for rows in (count for count in _ROWS if shape.height % count == 0):
                for columns in _divisors(shape.width):
                    extents = _Extents(rows, columns, vectors, lanes)
                    if _fits(shape, core, extents, inputs):
                        yield extents


def _flat_shapes(shape: ConvShape, core: CoreModel, inputs: int) -> Iterator[_Extents]:
    """Yield what is unrolled of every tile of pixels in one line that no tile of rows and columns is equal to."""
    for lanes in vector_lengths(shape.vector_channels, core):
        for vectors in _divisors(shape.channels // lanes):
            for pixels in range(2, _PIXELS + 1):
                extents = _Extents(1, pixels, vectors, lanes, flat=True)
                if shape.width % pixels and _fits(shape, core, extents, inputs):
                    yield extents


def vector_lengths(channels: int, core: CoreModel, *, powers_of_two: bool = False) -> list[int]:
    """Return the vector lengths to try: the whole and the half one, the datapath's, or the longest two that divide.

    A vector of 15 lanes is one of 16 to the arithmetic; only its loads and stores are several. What is mostly loads, as
    a depthwise convolution, asks for `powers_of_two`.
    """
    if channels % core.lanes == 0:
        return [core.lanes, core.lanes // 2]
    if channels % core.width == 0:
        return [core.width]
    shorter = [
        lanes
        for lanes in _divisors(channels)
        if 1 < lanes < core.lanes and not (powers_of_two and lanes & (lanes - 1))
    ]
    return shorter[:-3:-1]


def _fits(shape: ConvShape, core: CoreModel, extents: _Extents, inputs: int) -> bool:
    # Weights are loaded in pairs where a vector of inputs stays for several steps.
    loaded = extents.vectors + 1 if inputs == 1 else extents.pixels + min(extents.vectors, 2)
    return (
        extents.pixels <= _PIXELS
        and extents.products + loaded <= core.registers
        and _body(shape, extents.products) <= _LARGEST_BODY
    )


def _body(shape: ConvShape, products: int) -> int:
    """Return the multiply-adds in straight-line code; see `convolution.schedule_tile` for what is unrolled."""
    unrolled_inputs = shape.inputs if shape.inputs <= 4 else 1
    return products * shape.taps * unrolled_inputs if shape.taps > 1 else products


def _loads(shape: ConvShape, extents: _Extents) -> float:
    """Return the vector loads in a step of the sum (a tap of a depthwise convolution)."""
    if not shape.depthwise:
        vectors = extents.vectors
        return extents.pixels * max(1, vectors * extents.lanes // shape.group_channels) + vectors
    # Neighbouring outputs share their inputs, which are loaded once.
    high = (extents.rows - 1) * shape.stride + shape.kernel_height
    wide = (extents.columns - 1) * shape.stride + shape.kernel_width
    return (high * wide + shape.taps) * extents.vectors / shape.taps


def _loads_per_product(shape: ConvShape, extents: _Extents) -> float:
    return _loads(shape, extents) / extents.products


def _cycles(shape: ConvShape, core: CoreModel, extents: _Extents) -> float:
    """Return the expected cycles of a step of the sum."""
    passes = math.ceil(extents.lanes / core.width)
    products, loads = passes * extents.products, passes * _loads(shape, extents)
    cycles = max(
        products / core.multiply_adds_per_cycle,
        loads / core.loads_per_cycle,
        float(core.latency_cycles),
    )
    slice_bytes = shape.weight_bytes * shape.taps * shape.inputs * extents.vectors * extents.lanes
    if not shape.depthwise and slice_bytes > core.first_cache_bytes:
        cycles = max(cycles, float(extents.vectors * core.second_cache_cycles))
    return cycles


def _efficiency(shape: ConvShape, core: CoreModel, extents: _Extents) -> float:
    """Return the expected share of the core's peak."""
    cycles = sum(count * _cycles(shape, core, one) for count, one in _parts(shape, extents))
    products = sum(count * one.products for count, one in _parts(shape, extents))
    share = products * extents.lanes / (cycles * core.multiply_adds_per_cycle * core.width)
    if shape.depthwise:
        # Every further row is tested at the edge by itself.
        share *= _FURTHER_ROW ** (extents.rows - 1)
    return share * (1 - _body(shape, extents.products) / (8 * _LARGEST_BODY))


def _parts(shape: ConvShape, extents: _Extents) -> list[tuple[int, _Extents]]:
    """Return the tiles that the image is made of, each with how many there are: a flat one and its remainder."""
    if not extents.flat:
        return [(1, extents)]
    whole, rest = divmod(shape.height * shape.width, extents.pixels)
    return [(whole, extents), *([(1, replace(extents, columns=rest))] if rest else [])]


def _busy(core: CoreModel, extents: _Extents) -> float:
    """Return the share of the units that is at work, or would be if nothing but an addition's latency held it up."""
    return min(1.0, extents.products / core.sums_in_flight)


def _instructions_per_product(extents: _Extents, inputs: int) -> float:
    """Return the instructions of a step of the sum for each product of two numbers.

    Those of the loop are three; two vectors of weights come by one load.
    """
    products = inputs * extents.products
    loads = extents.pixels + inputs * math.ceil(extents.vectors / 2)
    return (products + loads + 3) / (products * extents.lanes)


def _paddings(shape: ConvShape) -> tuple[PaddingSource, ...]:
    if not shape.padded or shape.depthwise:
        return (PaddingSource.TESTED,)
    return (PaddingSource.TESTED, PaddingSource.COPIED)


def _orders(shape: ConvShape) -> tuple[LoopOrder, ...]:
    if shape.height * shape.width == 1:
        return (LoopOrder.CHANNELS_OUTSIDE,)
    return (LoopOrder.CHANNELS_OUTSIDE, LoopOrder.CHANNELS_INSIDE)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
