"""No transpose in the middle of a network, whatever its operators are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn

from tests.compiler.untuned import build_untuned, run_here
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.models.inference import predict

SHAPE = (1, 3, 8, 8)


class Gathered(nn.Module):
    """A batch norm of gathered channels, which no convolution can take in."""

    def __init__(self) -> None:
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", torch.tensor([5, 0, 7, 7, 2, 1]))
        self.norm = nn.BatchNorm2d(6)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.index_select(features, 1, self.index)))


class Shifted(nn.Module):
    """A padding that is no convolution's, beside what it pads."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((-1, 1, -1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.pad(features)], 1)


class Shuffled(nn.Module):
    """Channels in another order by reshaping, which must stay right whether it is moved or not."""

    def forward(self, features: Tensor) -> Tensor:
        moved = features.reshape(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        return moved * features + 0.5


MIDDLES = {
    "gather": (Gathered(), 6),
    "pad": (Shifted(), 16),
    "shuffle": (Shuffled(), 8),
    "leaky": (nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(3, 1, 1)), 8),
}


def network_with(middle: nn.Module, channels: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(channels, 8, 1), nn.Flatten()
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", MIDDLES)
def test_the_network_computes_the_same(name: str, target: str, tmp_path: Path) -> None:
    network = network_with(*MIDDLES[name])
    images = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
    expected = predict(network, images)
    outputs = run_here(build_untuned(lower_network(network, SHAPE, target), tmp_path), images)
    assert np.abs(expected).max() > 0.1
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["gather", "pad", "leaky"])
def test_nothing_is_transposed_between_the_convolutions(name: str, target: str) -> None:
    lowered = lower_network(network_with(*MIDDLES[name]), SHAPE, target)
    # The last transpose is that of the output, which torch has as (N,C,H,W).
    assert sum("transpose" in kernel.name for kernel in lowered.kernels) == 1, [
        kernel.name for kernel in lowered.kernels
    ]


def test_a_gather_with_any_index_stays_within_its_input(target: str) -> None:
    """Kernels are timed with random arguments, and an index is one of them."""
    lowered = lower_network(network_with(*MIDDLES["gather"]), SHAPE, target)
    (function,) = [
        function
        for variable, function in lowered.module.functions_items()
        if variable.name_hint.startswith("take")
    ]
    library = tvm.compile(function.with_attr("global_symbol", "main"), target="llvm")
    features = tvm.runtime.tensor(np.arange(8 * 64, dtype=np.float32).reshape(1, 8, 8, 8))
    index = tvm.runtime.tensor(np.array([-(2**60), 2**60, 3, 99, -1, 0]))
    gathered = tvm.runtime.tensor(np.zeros((1, 8, 8, 6), np.float32))
    library["main"](features, index, gathered)
    assert gathered.numpy()[0, 0, 0].tolist() == [0.0, 7.0, 3.0, 7.0, 0.0, 0.0]
