"""The end of a network in one kernel: each schedule computes the same, is a record, and fetches the classifier."""

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

from tests.compiler.scheduled import (
    assert_each_computes_the_same,
    assert_its_record_gives_the_same_code,
    module_of,
    run_kernel,
)
from tests.compiler.targets import CORTEX_A72, HASWELL, SKYLAKE_AVX512, runs_here
from tvm_mnas.compiler.core.prefetch import with_prefetches
from tvm_mnas.compiler.core.target import core_model, load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.head import is_head, propose_heads
from tvm_mnas.compiler.schedules.joined import propose_joined

TRIED = 4
ENDS = {"even": (16, 64, 40, 7), "many": (24, 128, 1000, 4), "odd": (12, 40, 12, 5)}
"""Inputs, channels, classes and the size of the image."""
FETCHES_FAR = {HASWELL: "prefetcht1", CORTEX_A72: "pldl2keep"}


def _target(target: str, second_cache_bytes: int) -> str:
    table = {**json.loads(target), "core_model": {"second_cache_bytes": second_cache_bytes}}
    return json.dumps(table)


def _module(end: str, target: str) -> Any:
    inputs, channels, classes, size = ENDS[end]
    network = nn.Sequential(
        nn.Conv2d(inputs, inputs, 1),
        nn.Conv2d(inputs, channels, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
    lowered = lower_network(network.eval(), (1, inputs, size, size), _target(target, 1))
    (kernel,) = [kernel for kernel in lowered.kernels if "matmul" in kernel.name]
    return module_of(kernel)


@pytest.mark.parametrize("end", ENDS)
def test_every_schedule_computes_the_same(end: str) -> None:
    target = runs_here()
    module = _module(end, target)
    schedules = list(islice(propose_heads(module, target), TRIED))
    assert len(schedules) == TRIED
    assert_each_computes_the_same(module, schedules, target)


def test_what_is_fetched_changes_nothing_that_is_computed() -> None:
    target = runs_here()
    module = _module("even", target)
    schedule = next(propose_heads(module, target))
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal([int(extent) for extent in one.shape], dtype=np.float32)
        for one in packed["main"].params
    ]
    assert "prefetch(" in with_prefetches(packed).script()
    bare, fetching = (
        run_kernel(code, [array.copy() for array in arrays], target)
        for code in (packed, with_prefetches(packed))
    )
    np.testing.assert_array_equal(bare, fetching)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_a_record_gives_the_same_code(end: str, target: str) -> None:
    module = _module(end, target)
    for schedule in islice(propose_heads(module, target), 2):
        assert_its_record_gives_the_same_code(schedule, module, target)


@pytest.mark.parametrize("target", [HASWELL, CORTEX_A72])
def test_the_classifiers_weights_come_as_far_as_the_second_cache(target: str) -> None:
    schedule = next(propose_heads(_module("many", target), target))
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    assert "tvm_mnas" not in with_prefetches(packed).script()
    library = tvm.compile(with_prefetches(packed), target=load_target(target))
    assert FETCHES_FAR[target] in str(library.mod.inspect_source("asm"))


def test_only_a_slice_of_the_image_lies_between_them() -> None:
    _, channels, _, size = ENDS["even"]
    schedule = next(propose_heads(_module("even", HASWELL), HASWELL))
    text = str(tvm.compile(schedule.mod, target=load_target(HASWELL)).mod.inspect_source("ll"))
    image = size * size * channels
    assert f"[{image} x float]" not in text
    assert f"i64 {4 * image}" not in text


def test_schedules_are_all_different() -> None:
    hashes = [
        tvm_ffi.structural_hash(one.mod) for one in propose_heads(_module("even", HASWELL), HASWELL)
    ]
    assert len(set(hashes)) == len(hashes) > TRIED


def test_a_head_is_nothing_else_and_nothing_else_is_a_head() -> None:
    head = _module("even", HASWELL)
    assert not list(propose_convolutions(head, HASWELL))
    assert not list(propose_joined(head, HASWELL))
    lowered = lower_network(nn.Conv2d(16, 24, 1).eval(), (1, 16, 8, 8), HASWELL)
    for kernel in lowered.kernels:
        assert not list(propose_heads(module_of(kernel), HASWELL))


@pytest.mark.parametrize("target", [HASWELL, SKYLAKE_AVX512, CORTEX_A72])
def test_it_is_one_where_the_weights_are_beyond_the_second_cache(target: str) -> None:
    _, channels, classes, _ = ENDS["many"]
    module = _module("many", target)
    weights_bytes = 4 * channels * classes
    assert not is_head(module, core_model(_target(target, weights_bytes), dtype="float32"))
    assert is_head(module, core_model(_target(target, weights_bytes - 1), dtype="float32"))
