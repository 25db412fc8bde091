"""One pass over an output: it computes what the unscheduled kernel computes, and is a record like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import Tensor, nn

from tests.compiler.scheduled import arguments_of, module_of, replayed, run_kernel
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules.elementwise import (
    propose_elementwise,
    schedule_elementwise,
    vector_widths,
)

SHAPE = (1, 3, 6, 6)


class Passes(nn.Module):
    """A gather, a scale by channel, a concatenation and a shuffle: kernels that sum nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 1)
        self.index: Tensor
        self.register_buffer("index", torch.arange(24).flip(0))
        self.scale = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(48, 40, 1)
        self.last = nn.Conv2d(40, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        gathered = torch.relu(self.scale(torch.index_select(first, 1, self.index)))
        both = self.second(torch.cat([first, gathered], 1))
        shuffled = both.reshape(-1, 2, 20, 6, 6).transpose(1, 2).reshape(-1, 40, 6, 6)
        return torch.flatten(self.last(shuffled), 1)


@pytest.fixture(scope="module")
def kernels(target: str) -> dict[str, Kernel]:
    """The kernels of the network by the first word of their names."""
    lowered = lower_network(Passes().eval(), SHAPE, target)
    return {kernel.name.split()[0]: kernel for kernel in lowered.kernels}


@pytest.fixture(scope="module")
def passes(kernels: dict[str, Kernel]) -> dict[str, Kernel]:
    """Those that sum nothing."""
    return {name: kernel for name, kernel in kernels.items() if "conv2d" not in name}


def test_there_are_kernels_of_every_kind(passes: dict[str, Kernel]) -> None:
    names = " ".join(passes)
    assert all(word in names for word in ("take", "multiply", "concatenate", "reshape")), names


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_what_the_unscheduled_kernel_computes(
    threads: int, passes: dict[str, Kernel], target: str
) -> None:
    for kernel in passes.values():
        module = module_of(kernel)
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target)
        proposed = list(propose_elementwise(module, target))
        assert proposed, kernel.name
        narrow = schedule_elementwise(module, 2, threads=threads)
        for schedule in (*proposed, narrow):
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target), expected, rtol=1e-6, err_msg=kernel.name
            )


def test_what_sums_has_no_rows(kernels: dict[str, Kernel], target: str) -> None:
    sums = [kernel for name, kernel in kernels.items() if name.startswith("conv2d")]
    assert sums
    for kernel in sums:
        assert list(propose_elementwise(module_of(kernel), target)) == []


def test_it_is_a_record_that_replays(passes: dict[str, Kernel], target: str) -> None:
    (kernel,) = (kernel for name, kernel in passes.items() if "multiply" in name)
    module = module_of(kernel)
    schedule = next(propose_elementwise(module, target))
    assert tvm_ffi.structural_equal(replayed(schedule, module, target), schedule.mod)


@pytest.mark.parametrize(
    ("channels", "lanes", "widths"),
    [
        (96, 16, [48, 32, 16]),
        (40, 16, [40, 20, 10]),
        (24, 16, [24, 12, 8]),
        (512, 16, [64, 32, 16]),
        (11, 16, [11]),
        (7, 4, [7]),
        (3, 4, []),
        (1009, 16, []),
    ],
)
def test_widths_divide_the_channels_whole_vectors_first(
    channels: int, lanes: int, widths: list[int]
) -> None:
    assert vector_widths(channels, lanes) == widths
