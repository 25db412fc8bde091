"""Rows that a run of a loop left are not computed by the next: each row once, in memory for a few; the same result."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

import pytest
import tvm
import tvm_ffi
from torch import nn
from tvm.s_tir.transform import (
    CompactBufferAllocation,
    ConvertBlocksToOpaque,
    LowerInitBlock,
    PlanAndUpdateBufferAllocationLocation,
    RemoveWeightLayoutRewriteBlock,
)

from tests.compiler.scheduled import module_of
from tests.compiler.targets import HASWELL
from tvm_mnas.compiler.core.rolling import with_rolling_rows
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.convolution import propose_convolutions
from tvm_mnas.compiler.schedules.joined import propose_joined

ROWS, COLUMNS, CHANNELS = 14, 12, 24
_MEMORY = tvm.transform.Sequential(
    [
        LowerInitBlock(),
        PlanAndUpdateBufferAllocationLocation(),
        ConvertBlocksToOpaque(),
        CompactBufferAllocation(),
    ]
)


def _module(*, size: int, stride: int) -> Any:
    network = nn.Sequential(
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, CHANNELS, 1),
        nn.ReLU6(),
        nn.Conv2d(CHANNELS, CHANNELS, size, stride, size // 2, groups=CHANNELS),
        nn.Conv2d(CHANNELS, 16, 1),
    )
    target = json.dumps({**json.loads(HASWELL), "core_model": {"second_cache_bytes": 1}})
    lowered = lower_network(network.eval(), (1, 8, ROWS, COLUMNS), target)
    (kernel,) = [one for one in lowered.kernels if one.name.count("conv2d") == 3]
    return module_of(kernel)


def _scheduled(*, size: int, stride: int, count: int = 3) -> list[Any]:
    packed = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)
    found = islice(propose_joined(_module(size=size, stride=stride), HASWELL), count)
    return [packed(schedule.mod) for schedule in found]


def _rows_in_memory(module: Any) -> int:
    """Return how many rows of the expanded image have memory outside of all loops; 0 where none has."""
    text = str(_MEMORY(module).script())
    outside = text[: text.index("for ")]
    found = re.findall(
        rf"alloc_buffer\(\(T\.int64\(1\), T\.int64\((\d+)\), T\.int64\({COLUMNS}\), T\.int64\({CHANNELS}\)\)",
        outside,
    )
    return int(found[0]) if found else 0


@pytest.mark.parametrize(
    ("size", "stride", "held", "kept"),
    [(3, 1, 4, 2), (3, 2, 4, 1), (5, 1, 8, 4), (5, 2, 8, 3)],
)
def test_rows_that_are_there_are_left_out(size: int, stride: int, held: int, kept: int) -> None:
    for module in _scheduled(size=size, stride=stride):
        rolled = with_rolling_rows(module)
        assert _rows_in_memory(module) == 0
        assert _rows_in_memory(rolled) == held
        (condition,) = re.findall(
            r"if \w+ < T\.int64\(1\) or \w+ >= T\.int64\((\d+)\)", rolled.script()
        )
        assert int(condition) == kept


def test_no_mark_is_left_and_what_has_none_stays_as_it_is() -> None:
    (module,) = _scheduled(size=3, stride=1, count=1)
    assert "tvm_mnas.rolling" in module.script()
    rolled = with_rolling_rows(module)
    assert "tvm_mnas.rolling" not in rolled.script()
    assert tvm_ffi.structural_equal(with_rolling_rows(rolled), rolled)


def test_a_kernel_that_does_not_overlap_has_no_marks() -> None:
    for module in _scheduled(size=3, stride=3):
        assert "tvm_mnas.rolling" not in module.script()


def test_other_kernels_have_none() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()).eval()
    lowered = lower_network(network, (1, 8, 6, 6), HASWELL)
    (kernel,) = [one for one in lowered.kernels if one.name.startswith("conv2d")]
    module = next(propose_convolutions(module_of(kernel), HASWELL)).mod
    assert tvm_ffi.structural_equal(with_rolling_rows(module), module)
