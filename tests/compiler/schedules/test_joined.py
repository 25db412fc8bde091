"""A depthwise convolution with a pointwise one behind it: each schedule computes the same, and is a record."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import tvm
import tvm_ffi
from torch import nn

from tests.compiler.scheduled import (
    assert_each_computes_the_same,
    assert_its_record_gives_the_same_code,
    module_of,
)
from tests.compiler.targets import CORTEX_A72, HASWELL, runs_here
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.joined import propose_joined, rank_pairs
from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder
from tvm_mnas.cores.model import CoreModel

TRIED = 5
PAIRS = {
    "3x3": (16, 24, 3, 1),
    "5x5, stride 2": (24, 16, 5, 2),
    "odd": (20, 12, 3, 1),
}
"""Inputs, outputs, kernel size and stride."""
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


def _module(pair: str, target: str, *, joined: bool = True) -> Any:
    inputs, outputs, size, stride = PAIRS[pair]
    table = {**json.loads(target), "core_model": {"second_cache_bytes": 1 if joined else 1 << 20}}
    network = nn.Sequential(
        nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    )
    lowered = lower_network(network.eval(), (1, inputs, 14, 14), json.dumps(table))
    kernels = [kernel for kernel in lowered.kernels if kernel.name.startswith("conv2d")]
    assert len(kernels) == (1 if joined else 2)
    return module_of(kernels[0])


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


@pytest.mark.parametrize(
    "core",
    [
        CoreModel(lanes=16, registers=32),
        CoreModel(lanes=8, registers=16),
        CoreModel(lanes=4, registers=32, multiplies_lanes=True),
    ],
    ids=["avx512", "avx2", "neon"],
)
def test_both_tiles_are_of_one_row_and_the_best_come_first(core: CoreModel) -> None:
    pairs = rank_pairs(DEEP, POINT, core)
    assert len(set(pairs)) == len(pairs)
    assert all(tile.rows == 1 and not tile.flat for pair in pairs for tile in pair)
    assert all(point.order is LoopOrder.CHANNELS_INSIDE for _, point in pairs)
    first = pairs[0]
    assert {first, (first[0], pairs[1][1]), (pairs[2][0], first[1])} >= set(pairs[:3])
