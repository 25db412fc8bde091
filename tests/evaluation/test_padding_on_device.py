"""What lies behind a convolution and is larger than it, tuned and run: every element of it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_scratch_toolchain

SHAPE = (1, 3, 12, 12)


class Net(nn.Module):
    """A convolution, something behind it, and another: images (N,3,12,12) -> logits (N,10)."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first = nn.Conv2d(3, 32, 1)
        self.second = nn.Conv2d(32, 32, 3, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.second(self.between(self.first(images))).mean((2, 3)))


def far_side(images: Tensor) -> Tensor:
    return nn.functional.pad(images, (0, 1, 0, 1))


def all_sides(images: Tensor) -> Tensor:
    return nn.functional.pad(images, (1, 1, 1, 1), value=0.5)


def repeated(images: Tensor) -> Tensor:
    return nn.functional.pad(images, (0, 2, 0, 1), mode="replicate")


def cut(images: Tensor) -> Tensor:
    return images[:, :, :11, :9]


def twice(images: Tensor) -> Tensor:
    return torch.cat([images, images], dim=2)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


def test_what_is_larger_than_the_convolution_before_it_is_written_to_its_edge(
    records: Path,
) -> None:
    """With one schedule each: whichever is tried first has to be right."""
    options = ToolchainOptions(records=records, schedules_per_kernel=1, seed=0)
    with open_scratch_toolchain(load_profile("local"), options) as (toolchain, directory):
        for between in (far_side, all_sides, repeated, cut, twice):
            torch.manual_seed(0)
            network = Net(between).eval()
            lowered = toolchain.lower(network, SHAPE)
            toolchain.tune([lowered], on_progress=lambda done, total: None)
            artifact = toolchain.compile(lowered, directory / f"{between.__name__}.so")
            judge = torch_judge(network, batch_size=1)
            agreement = toolchain.check_network(artifact, judge, seed=0)
            assert agreement.difference < 1e-5, between.__name__
