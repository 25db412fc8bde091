"""Sums in registers: they compute what the unscheduled kernel computes, and are records like any other."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import tvm_ffi
from torch import Tensor, nn

from tests.compiler.scheduled import arguments_of, module_of, replayed, run_kernel
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.reduction import (
    propose_reductions,
    rank_vectors,
    schedule_reduction,
)
from tvm_mnas.cores.model import CoreModel

SHAPE = (1, 3, 12, 12)
TRIED = 3


class Sums(nn.Module):
    """Every kind of kernel that sums, and one whose sums run along the vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
        self.pools = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40))
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(40, 30))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.head(self.pools(self.stem(images)))
        result: Tensor = self.last(hidden - hidden.mean(1, keepdim=True))
        return result


@pytest.fixture(scope="module")
def kernels(target: str) -> list[Kernel]:
    """All kernels of the network."""
    return list(lower_network(Sums().eval(), SHAPE, target).kernels)


@pytest.fixture(scope="module")
def summed(kernels: list[Kernel], target: str) -> list[Kernel]:
    """Those for which there are schedules."""
    return [
        kernel for kernel in kernels if next(propose_reductions(module_of(kernel), target), None)
    ]


def test_poolings_means_of_pixels_and_products_have_schedules(summed: list[Kernel]) -> None:
    assert sorted(kernel.name for kernel in summed) == [
        "adaptive_avg_pool2d 1x3x3x32 1x1x1x32",
        "avg_pool2d 1x12x12x32 1x12x12x32",
        "avg_pool2d 1x12x12x32 1x6x6x32",
        "matmul_add 1x32 32x40",
        "matmul_add 1x40 40x30",
        "max_pool2d 1x12x12x32 1x12x12x32",
        "max_pool2d 1x6x6x32 1x3x3x32",
    ]


def test_convolutions_and_sums_along_the_vectors_have_none(
    kernels: list[Kernel], summed: list[Kernel]
) -> None:
    others = {kernel.name.split()[0] for kernel in kernels if kernel not in summed}
    assert "conv2d_add_relu" in others
    assert any("mean" in name for name in others), others


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_what_the_unscheduled_kernel_computes(
    threads: int, summed: list[Kernel], target: str
) -> None:
    for kernel in summed:
        module = module_of(kernel)
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target)
        proposed = list(islice(propose_reductions(module, target), TRIED))
        for schedule in (*proposed, schedule_reduction(module, 1, 2, threads=threads)):
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target),
                expected,
                rtol=1e-4,
                atol=1e-5,
                err_msg=kernel.name,
            )


def test_a_record_of_it_gives_the_same_code(summed: list[Kernel], target: str) -> None:
    for kernel in summed:
        module = module_of(kernel)
        schedule = next(propose_reductions(module, target))
        arrays = arguments_of(module)
        again = replayed(schedule, module, target)
        np.testing.assert_array_equal(
            run_kernel(again, arrays, target), run_kernel(schedule.mod, arrays, target)
        )


def test_all_schedules_of_a_kernel_differ(summed: list[Kernel], target: str) -> None:
    for kernel in summed:
        proposed = list(propose_reductions(module_of(kernel), target))
        assert len(proposed) > 1, kernel.name
        assert len({tvm_ffi.structural_hash(schedule.mod) for schedule in proposed}) == len(
            proposed
        )


def test_as_many_vectors_as_keep_the_units_busy_come_first() -> None:
    core = CoreModel(lanes=16, registers=32)
    assert rank_vectors(1280, core) == [
        (8, 16), (10, 16), (16, 16), (20, 16), (8, 8), (10, 8), (16, 8), (20, 8)
    ]  # fmt: skip
    assert rank_vectors(1000, core) == [
        (10, 10),
        (20, 10),
        (25, 10),
        (5, 10),
        (25, 8),
        (5, 8),
        (1, 8),
    ]
    assert rank_vectors(32, core) == [(2, 16), (1, 16), (4, 8), (2, 8), (1, 8)]
    assert rank_vectors(7, core) == [(1, 7)]
    assert rank_vectors(1, core) == []
