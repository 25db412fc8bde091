"""The next slice of the weights is fetched, all of it, where a schedule asks for it; what it computes is the same."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from torch import nn
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tests.compiler.scheduled import arguments_of, module_of, replayed, run_kernel
from tests.compiler.targets import CORTEX_A72, HASWELL, runs_here
from tvm_mnas.compiler.core.prefetch import fetched_at, with_prefetches
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions, schedule_tile
from tvm_mnas.compiler.schedules.tiles import LoopOrder, PaddingSource, Tile

SIZES = {"wide": (64, 256), "narrow": (16, 24)}
"""Inputs and outputs of a pointwise convolution with 64 KiB of weights, and of one with less than 2."""
INSTRUCTIONS = {HASWELL: "prefetcht0", CORTEX_A72: "pldl1keep"}


def _module(size: str, target: str) -> Any:
    inputs, outputs = SIZES[size]
    network = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU()).eval()
    lowered = lower_network(network, (1, inputs, 7, 7), target)
    (kernel,) = [one for one in lowered.kernels if one.name.startswith("conv2d")]
    return module_of(kernel)


def _scheduled(size: str, target: str, count: int = 4) -> list[Any]:
    """Return the first schedules of the convolution, its weights packed."""
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)
    found = islice(propose_convolutions(_module(size, target), target), count)
    return [packed(schedule.mod) for schedule in found]


def _assembly(module: Any, target: str) -> str:
    library = tvm.compile(with_prefetches(module), target=load_target(target))
    return str(library.mod.inspect_source("asm"))


@pytest.mark.parametrize("elements", [1, 15, 16, 17, 160, 5120, 6144])
@pytest.mark.parametrize("steps", [1, 7, 49, 160, 1120, 4000])
def test_all_lines_of_a_slice_are_fetched(elements: int, steps: int) -> None:
    line = 16
    advance, lines = fetched_at(elements, steps, line)
    fetched = {(step * advance + first) // line for step in range(steps) for first in lines}
    assert fetched >= set(range(-(-elements // line)))


def test_no_step_fetches_more_than_its_part() -> None:
    assert fetched_at(5120, 1120, 16) == (5, [0])
    assert fetched_at(5120, 160, 16) == (32, [0, 16])


@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_weights_beyond_the_first_cache_are_fetched(target: str) -> None:
    outside, inside = _scheduled("wide", target, count=2)
    assert INSTRUCTIONS[target] in _assembly(outside, target)
    # There all slices pass for each tile of pixels: they would be fetched as often.
    assert INSTRUCTIONS[target] not in _assembly(inside, target)


@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_weights_that_the_first_cache_holds_are_not(target: str) -> None:
    for module in _scheduled("narrow", target):
        assert INSTRUCTIONS[target] not in _assembly(module, target)


def test_code_without_marks_stays_as_it_is() -> None:
    for module in _scheduled("narrow", HASWELL):
        assert tvm_ffi.structural_equal(with_prefetches(module), module)


def test_no_mark_is_left() -> None:
    (module,) = _scheduled("wide", HASWELL, count=1)
    assert "tvm_mnas.prefetch" in module.script()
    assert "tvm_mnas.prefetch" not in with_prefetches(module).script()


def test_several_threads_have_caches_of_their_own() -> None:
    table = {**json.loads(HASWELL), "num-cores": 2}
    for module in _scheduled("wide", json.dumps(table)):
        assert "tvm_mnas.prefetch" not in module.script()


def test_a_record_keeps_the_marks() -> None:
    module = _module("wide", HASWELL)
    schedule = next(propose_convolutions(module, HASWELL))
    marks = schedule.mod.script().count("tvm_mnas.prefetch")
    assert marks > 0
    assert replayed(schedule, module, HASWELL).script().count("tvm_mnas.prefetch") == marks


@pytest.mark.parametrize("order", LoopOrder)
@pytest.mark.parametrize("flat", [False, True])
def test_it_computes_the_same(order: LoopOrder, flat: bool) -> None:
    target = runs_here()
    module = _module("wide", target)
    tile = Tile(
        rows=1,
        columns=5 if flat else 7,
        vectors=2,
        lanes=8,
        order=order,
        padding=PaddingSource.TESTED,
        flat=flat,
        prefetch=True,
    )
    schedule = schedule_tile(module, tile, threads=1)
    arrays = arguments_of(module)
    packed = [array.copy() for array in arrays]
    packed[1] = np.ascontiguousarray(arrays[1].reshape(1, 1, 64, 16, 16).transpose(3, 0, 1, 2, 4))
    code = with_prefetches(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod))
    assert "prefetch" in code.script()
    np.testing.assert_allclose(
        run_kernel(code, packed, target), run_kernel(module, arrays, target), rtol=1e-4, atol=1e-4
    )
