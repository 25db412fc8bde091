"""Schedules in half precision: twice as many lanes where the core has them, and sums of the type they should be."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tvm
from torch import nn
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tests.compiler.scheduled import arguments_of, module_of, replayed, run_kernel
from tests.compiler.targets import CORTEX_A72, CORTEX_A76, SAPPHIRE_RAPIDS, SKYLAKE_AVX512
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.target import core_model, load_target
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import conv_shape, propose_convolutions
from tvm_mnas.compiler.schedules.elementwise import propose_elementwise
from tvm_mnas.compiler.schedules.reduction import propose_reductions
from tvm_mnas.cores.precision import FLOAT32, Precision

HALF = Precision("float16", "float16")
WIDE_SUMS = Precision("float16", "float32")
TRIED = 4
NETWORK = nn.Sequential(nn.Conv2d(3, 80, 3, padding=1), nn.Conv2d(80, 480, 1)).eval()
POINTWISE = " 1x1x80x480"


def _kernel(network: nn.Module, shape: Any, target: str, precision: Precision, name: str) -> Kernel:
    kernels = lower_network(network, shape, target, precision=precision).kernels
    (kernel,) = (kernel for kernel in kernels if name in kernel.name)
    return kernel


def _assembly(schedule: Any, target: str) -> str:
    plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    return str(tvm.compile(plain, target=load_target(target)).mod.inspect_source("asm"))


@pytest.mark.parametrize(
    ("target", "lanes", "half_lanes"),
    [
        (CORTEX_A72, 4, 4),
        (CORTEX_A76, 4, 8),
        (CORTEX_A72.replace('"cortex-a72"', '"cortex-a72", "mattr": ["+fullfp16"]'), 4, 8),
        (SKYLAKE_AVX512, 16, 16),
        (SAPPHIRE_RAPIDS, 16, 32),
    ],
)
def test_a_vector_has_twice_the_lanes_where_the_core_computes_in_half(
    target: str, lanes: int, half_lanes: int
) -> None:
    assert core_model(target).lanes == lanes
    assert core_model(target, dtype="float16").lanes == half_lanes
    assert core_model(target, dtype="float32").lanes == lanes


@pytest.mark.parametrize(
    ("precision", "vectors"), [(FLOAT32, "4s"), (HALF, "8h"), (WIDE_SUMS, "4s")], ids=str
)
def test_on_arm_a_multiply_add_takes_a_lane_of_a_vector_of_inputs(
    precision: Precision, vectors: str
) -> None:
    kernel = _kernel(NETWORK, (1, 3, 14, 14), CORTEX_A76, precision, POINTWISE)
    schedule = next(propose_convolutions(module_of(kernel), CORTEX_A76))
    code = _assembly(schedule, CORTEX_A76)
    count, kind = vectors
    operand = rf"v\d+\.{vectors}"
    lanes = re.findall(rf"fmla\s+{operand}, {operand}, v\d+\.{kind}\[(\d)\]", code)
    assert len(lanes) >= 32
    assert {lanes.count(lane) for lane in "01234567"[: int(count)]} == {len(lanes) // int(count)}
    # No number is converted by itself, nor broadcast.
    assert not re.search(r"\bfcvt\s+[hs]\d|\b(ld1r|dup)\b", code)


def test_weights_are_counted_in_the_bytes_that_they_have() -> None:
    kernels = [
        _kernel(NETWORK, (1, 3, 14, 14), CORTEX_A76, one, POINTWISE) for one in (FLOAT32, HALF)
    ]
    shapes = [conv_shape(module_of(kernel)) for kernel in kernels]
    assert [shape and shape.weight_bytes for shape in shapes] == [4, 2]


NETWORKS: dict[str, tuple[nn.Module, tuple[int, int, int, int]]] = {
    "pointwise": (nn.Conv2d(24, 48, 1), (1, 24, 6, 6)),
    "depthwise": (nn.Conv2d(16, 16, 5, padding=2, stride=2, groups=16), (1, 16, 8, 8)),
    "stem": (nn.Conv2d(3, 16, 3, padding=1, stride=2), (1, 3, 16, 16)),
    "product": (nn.Linear(32, 48), (1, 1, 4, 32)),
    "pooling": (nn.AvgPool2d(3, 2, 1), (1, 16, 8, 8)),
    "mean": (nn.AdaptiveAvgPool2d(1), (1, 16, 8, 8)),
    "activation": (nn.Hardswish(), (1, 2, 4, 32)),
}


@pytest.mark.parametrize("precision", [HALF, WIDE_SUMS], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_schedule_computes_what_the_unscheduled_kernel_computes(
    name: str, precision: Precision, target: str
) -> None:
    network, shape = NETWORKS[name]
    kernels = lower_network(
        nn.Sequential(network, nn.ReLU()).eval(), shape, target, precision=precision
    )
    tried = 0
    for kernel in kernels.kernels:
        module = module_of(kernel)
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target).astype(np.float32)
        for propose in (propose_convolutions, propose_reductions, propose_elementwise):
            for schedule in islice(propose(module, target), TRIED):
                found = run_kernel(schedule.mod, arrays, target).astype(np.float32)
                np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
                assert replayed(schedule, module, target) is not None
                tried += 1
    assert tried
