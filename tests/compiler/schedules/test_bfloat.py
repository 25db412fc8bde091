"""Schedules in bfloat16: one instruction for two products where the core has it, the same numbers where it has not."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tvm
from torch import nn
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tests.compiler.scheduled import (
    arguments_of,
    assert_its_record_gives_the_same_code,
    module_of,
    run_kernel,
)
from tests.compiler.targets import CORTEX_A76, HASWELL, SAPPHIRE_RAPIDS, runs_here
from tvm_mnas.compiler.core.marks import as_marked
from tvm_mnas.compiler.core.target import core_dots, load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.head import propose_heads
from tvm_mnas.compiler.schedules.joined import propose_joined
from tvm_mnas.cores.precision import Precision
from tvm_mnas.devices.core.host import detect_target

BFLOAT = Precision("bfloat16", "float32")
CORTEX_A710 = CORTEX_A76.replace("cortex-a76", "cortex-a710")
TRIED = 2
"""With pairs of inputs and without."""
PAIR = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU(), nn.Conv2d(24, 48, 1))
POOL = nn.MaxPool2d(3, 1, 1)
END = nn.Sequential(
    nn.Conv2d(24, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 48)
)
NETWORKS: dict[str, tuple[nn.Module, str, Any]] = {
    "pointwise": (nn.Conv2d(24, 48, 1), "1x1x24x48", propose_convolutions),
    "full": (nn.Conv2d(24, 48, 3, 2, 1), "3x3x24x48", propose_convolutions),
    "depthwise": (PAIR[0], "3x3x1x", propose_convolutions),
    "pair": (nn.Sequential(POOL, PAIR), "1x1x24x48", propose_joined),
    "chain": (nn.Sequential(nn.Conv2d(24, 24, 1), PAIR), "1x1x24x48", propose_joined),
    "end": (END, "24x64", propose_heads),
}


def _module(name: str, target: str) -> Any:
    """Return the kernel of that kind, in a network that has bfloat16 before it."""
    network, part, _ = NETWORKS[name]
    cache = 1 if name in ("pair", "chain", "end") else 1 << 20
    text = json.dumps({**json.loads(target), "core_model": {"second_cache_bytes": cache}})
    whole = nn.Sequential(nn.Conv2d(24, 24, 1), nn.ReLU(), network).eval()
    lowered = lower_network(whole, (1, 24, 7, 7), text, precision=BFLOAT)
    (kernel,) = [kernel for kernel in lowered.kernels if part in kernel.name]
    return module_of(kernel)


def _code(schedule: Any, target: str) -> str:
    plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    compiled = tvm.compile(as_marked(plain), target=load_target(target))
    return str(compiled.mod.inspect_source("asm"))


@pytest.mark.parametrize(
    ("target", "lanes"),
    [
        (HASWELL, []),
        (CORTEX_A76, []),
        (CORTEX_A710, [4]),
        (CORTEX_A76.replace('"cortex-a76"', '"cortex-a76", "mattr": ["+bf16"]'), [4]),
        (SAPPHIRE_RAPIDS, [4, 8, 16]),
    ],
)
def test_a_core_takes_pairs_that_has_the_instruction(target: str, lanes: list[int]) -> None:
    assert sorted(core_dots(target)) == lanes


@pytest.mark.parametrize(
    ("name", "target"),
    [*((name, CORTEX_A710) for name in NETWORKS), ("pointwise", SAPPHIRE_RAPIDS)],
)
def test_what_is_a_sum_over_inputs_is_of_pairs(name: str, target: str) -> None:
    module = _module(name, target)
    schedule = next(NETWORKS[name][2](module, target))
    assert_its_record_gives_the_same_code(schedule, module, target)
    pairs = re.findall(r"\b(?:bfdot|vdpbf16ps)\b", _code(schedule, target))
    assert bool(pairs) == (name != "depthwise")


def test_on_arm_several_pairs_come_by_one_load() -> None:
    schedule = next(propose_convolutions(_module("pointwise", CORTEX_A710), CORTEX_A710))
    code = _code(schedule, CORTEX_A710)
    lanes = re.findall(r"\bdup\s+v\d+\.4s, v\d+\.s\[(\d)\]", code)
    assert len(lanes) >= 28
    assert {lanes.count(lane) for lane in "0123"} == {len(lanes) // 4}
    assert len(re.findall(r"\bbfdot\b", code)) == 3 * len(lanes)
    assert not re.search(r"\bld1r\b", code)


@pytest.mark.parametrize("name", ["pointwise", "depthwise", "pair"])
def test_a_schedule_computes_what_the_unscheduled_kernel_computes(name: str) -> None:
    target = runs_here()
    _assert_right(name, target)


@pytest.mark.parametrize("name", NETWORKS)
def test_so_it_does_with_pairs_where_this_machine_takes_them(name: str) -> None:
    target = detect_target(threads=1)
    if not core_dots(target):
        pytest.skip("needs a core with an instruction for pairs of bfloat16")
    _assert_right(name, target)


def _assert_right(name: str, target: str) -> None:
    module = _module(name, target)
    arrays = arguments_of(module)
    expected = run_kernel(module, [array.copy() for array in arrays], target)
    schedules = list(islice(NETWORKS[name][2](module, target), TRIED))
    assert len(schedules) == TRIED
    for schedule in schedules:
        found = run_kernel(as_marked(schedule.mod), [array.copy() for array in arrays], target)
        np.testing.assert_allclose(_numbers(found), _numbers(expected), rtol=2e-2, atol=2e-2)


def _numbers(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype != np.uint16:
        return values
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
