"""A depthwise convolution with what is joined to it: each schedule computes the same, and is a record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from torch import nn
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tests.compiler.scheduled import (
    arguments_of,
    assert_each_computes_the_same,
    assert_its_record_gives_the_same_code,
    module_of,
    run_kernel,
)
from tests.compiler.targets import CORTEX_A72, HASWELL, runs_here
from tvm_mnas.compiler.core.rolling import with_rolling_rows
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.joined import propose_joined, rank_chains, rank_pairs
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder
from tvm_mnas.cores.model import CoreModel

TRIED = 5
FEW = 3
PAIRS = {
    "3x3": (16, 24, 3, 1),
    "5x5, stride 2": (24, 16, 5, 2),
    "odd": (20, 12, 3, 1),
}
"""Inputs, outputs, kernel size and stride."""
FIRST = {
    "expansion": nn.Conv2d(8, 24, 1),
    "expansion of four inputs a step": nn.Conv2d(16, 24, 1),
    "stem": nn.Conv2d(3, 24, 3, 2, 1),
}
"""What may be in front of a pair, its output with 24 channels."""
CORES = {
    "avx512": CoreModel(lanes=16, registers=32),
    "avx2": CoreModel(lanes=8, registers=16),
    "neon": CoreModel(lanes=4, registers=32, multiplies_lanes=True),
}
DEEP = ConvShape(
    height=112,
    width=112,
    channels=32,
    kernel_height=3,
    kernel_width=3,
    inputs=1,
    groups=32,
    stride=1,
    padded=True,
)
WIDE = ConvShape(
    height=112,
    width=112,
    channels=32,
    kernel_height=1,
    kernel_width=1,
    inputs=16,
    groups=1,
    stride=1,
    padded=False,
)
POINT = ConvShape(
    height=112,
    width=112,
    channels=16,
    kernel_height=1,
    kernel_width=1,
    inputs=32,
    groups=1,
    stride=1,
    padded=False,
)


def _pair(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    ]


def _lowered(layers: list[nn.Module], inputs: int, side: int, target: str, cache: int) -> Any:
    table = json.loads(target)
    table["core_model"] = {**table.get("core_model", {}), "second_cache_bytes": cache}
    network = nn.Sequential(*layers).eval()
    return lower_network(network, (1, inputs, side, side), json.dumps(table))


def _module(pair: str, target: str, *, joined: bool = True) -> Any:
    inputs, *_ = PAIRS[pair]
    lowered = _lowered(_pair(*PAIRS[pair]), inputs, 14, target, 1 if joined else 1 << 20)
    kernels = [kernel for kernel in lowered.kernels if kernel.name.startswith("conv2d")]
    assert len(kernels) == (1 if joined else 2)
    return module_of(kernels[0])


def _chain(first: str, target: str, *, size: int = 3, stride: int = 1, side: int = 14) -> Any:
    """Return a kernel of three convolutions, which reads an image of `side` rows, or a stem that makes as many."""
    full = FIRST[first]
    assert isinstance(full, nn.Conv2d)
    before: list[nn.Module] = []
    if full.kernel_size == (1, 1):
        # The image as it comes is read by another convolution.
        before = [nn.Conv2d(full.in_channels, full.in_channels, 1)]
    layers = [*before, full, nn.ReLU6(), *_pair(24, 16, size, stride)]
    lowered = _lowered(layers, full.in_channels, side * full.stride[0], target, 1)
    (kernel,) = [one for one in lowered.kernels if one.name.count("conv2d") == 3]
    return module_of(kernel)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_schedule_computes_the_same(pair: str) -> None:
    target = runs_here()
    module = _module(pair, target)
    schedules = list(islice(propose_joined(module, target), TRIED))
    assert len(schedules) == TRIED
    assert_each_computes_the_same(module, schedules, target)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_a_record_gives_the_same_code(pair: str, target: str) -> None:
    module = _module(pair, target)
    for schedule in islice(propose_joined(module, target), 2):
        assert_its_record_gives_the_same_code(schedule, module, target)


@pytest.mark.parametrize(
    ("first", "size", "stride", "side"),
    [
        ("expansion", 3, 1, 14),
        ("expansion", 3, 2, 13),
        ("expansion", 5, 1, 9),
        ("expansion", 5, 2, 14),
        ("expansion", 5, 1, 3),
        ("expansion of four inputs a step", 3, 1, 14),
        ("stem", 3, 1, 14),
        ("stem", 5, 2, 13),
    ],
)
def test_every_schedule_of_three_computes_the_same_and_so_without_what_it_has(
    first: str, size: int, stride: int, side: int
) -> None:
    target = runs_here()
    module = _chain(first, target, size=size, stride=stride, side=side)
    schedules = list(islice(propose_joined(module, target), FEW))
    assert len(schedules) == FEW
    assert_each_computes_the_same(module, schedules, target)
    arrays = arguments_of(module)
    for schedule in schedules:
        rolled = with_rolling_rows(schedule.mod)
        # Fewer rows than the kernel has are read at once.
        assert tvm_ffi.structural_equal(rolled, schedule.mod) == (side < size)
        expected, found = (
            run_kernel(one, [array.copy() for array in arrays], target)
            for one in (schedule.mod, rolled)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("before", ["pooling", *FIRST])
def test_so_where_the_second_reads_the_first_channels_alone(before: str) -> None:
    # 24 channels fill up two vectors of 16, so that the depthwise convolution writes 32.
    target = json.dumps({**json.loads(runs_here()), "core_model": {"lanes": 16}})
    if before == "pooling":
        layers = [nn.Conv2d(8, 24, 1), nn.MaxPool2d(3, 1, 1), *_pair(24, 16, 3, 1)]
        lowered = _lowered(layers, 8, 14, target, 1)
        (kernel,) = [one for one in lowered.kernels if one.name.count("conv2d") == 2]
        module = module_of(kernel)
    else:
        module = _chain(before, target)
    shapes = [tuple(int(size) for size in one.shape) for one in module["main"].params]
    assert (3, 3, 1, 32) in shapes
    assert (1, 1, 24, 16) in shapes
    schedules = list(islice(propose_joined(module, target), FEW))
    assert len(schedules) == FEW
    assert_each_computes_the_same(module, schedules, target)
    assert_its_record_gives_the_same_code(schedules[0], module, target)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_a_record_of_three_gives_the_same_code(first: str, target: str) -> None:
    module = _chain(first, target)
    for schedule in islice(propose_joined(module, target), 2):
        assert_its_record_gives_the_same_code(schedule, module, target)


def test_on_arm_an_expansion_takes_several_inputs_by_one_load() -> None:
    module = _chain("expansion of four inputs a step", CORTEX_A72)
    schedule = next(propose_joined(module, CORTEX_A72))
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    library = tvm.compile(with_rolling_rows(packed), target=load_target(CORTEX_A72))
    assert re.search(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[3\]", library.mod.inspect_source("asm"))


def test_only_a_row_lies_between_them() -> None:
    module = _module("3x3", HASWELL)
    schedule = next(propose_joined(module, HASWELL))
    library = tvm.compile(schedule.mod, target=load_target(HASWELL))
    text = str(library.mod.inspect_source("ll"))
    row, image = 14 * 16, 14 * 14 * 16
    assert f"alloca [{row} x float]" in text
    assert f"i64 {4 * image}" not in text


def test_schedules_are_all_different() -> None:
    module = _module("3x3", HASWELL)
    hashes = [tvm_ffi.structural_hash(one.mod) for one in propose_joined(module, HASWELL)]
    assert len(set(hashes)) == len(hashes) > TRIED


def test_a_convolution_alone_is_none_of_these_and_a_pair_is_no_convolution() -> None:
    assert not list(propose_joined(_module("3x3", HASWELL, joined=False), HASWELL))
    assert not list(propose_convolutions(_module("3x3", HASWELL), HASWELL))


@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_both_tiles_are_of_one_row_and_the_best_come_first(core: CoreModel) -> None:
    pairs = rank_pairs(DEEP, POINT, core)
    assert len(set(pairs)) == len(pairs)
    assert all(
        tile.rows == 1 and not tile.flat
        for pair in pairs
        for tile in (pair.depthwise, pair.pointwise)
    )
    assert all(pair.pointwise.order is LoopOrder.CHANNELS_INSIDE for pair in pairs)
    first, second, third = pairs[:3]
    assert (second.depthwise, third.pointwise) == (first.depthwise, first.pointwise)


@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_of_three_those_of_the_first_are_tried_soonest(core: CoreModel) -> None:
    chains = rank_chains(WIDE, DEEP, POINT, core)
    assert len(set(chains)) == len(chains)
    best = rank_pairs(DEEP, POINT, core)[0]
    assert chains[0].full is not None
    assert replace(chains[0], full=None) == best
    # Of eight schedules, three or four tiles of the first.
    assert len({chain.full for chain in chains[:8]}) >= 3
    vectors = [chain.full.vectors for chain in chains if chain.full is not None]
    assert all(vectors.count(one) > 1 for one in set(vectors))
    assert all(
        chain.full is not None
        and chain.full.rows == 1
        and chain.full.order is LoopOrder.CHANNELS_OUTSIDE
        and not chain.full.prefetch
        for chain in chains
    )
