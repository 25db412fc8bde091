"""Padding channels with zeros: the same outputs, whole vectors everywhere inside, nothing done where it is not safe."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.network import build_network
from tvm_mnas.models.padding import pad_channels
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space, space_names


def _random_statistics(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.bias.normal_(0.0, 0.2, generator=generator)


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_padded_network_is_the_same_function(name: str, seed: int) -> None:
    space = load_space(name)
    # The paper's channels at a tenth of its pixels.
    notation = space.decode(space.sample(random.Random(seed))).notation
    notation = notation.replace(f"i{space.input_size}_", "i32_", 1)
    network = build_network(Architecture.parse(notation), seed=seed).eval()
    _random_statistics(network, seed)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    folded = fold_batch_norm(network)
    padded = pad_channels(folded, 16)
    with torch.no_grad():
        expected, actual = folded(images), padded(images)
    assert actual.shape == expected.shape
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    convolutions = [module for module in padded.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions
    assert all(module.out_channels % 16 == 0 for module in convolutions)
    assert all(module.in_channels % 16 == 0 for module in convolutions[1:])
    assert convolutions[0].in_channels == 3


def test_the_network_given_is_left_as_it_is() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pad_channels(network.eval(), 16)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Unknown(nn.Module):
    """Reads channels by number, as a network may."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)[:, ::2].mean((2, 3))


@pytest.mark.parametrize(
    "network",
    [
        Unknown(),
        nn.Sequential(nn.Conv2d(3, 8, 3)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 9, 2)),
        nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        ),
    ],
    ids=["unknown operation", "convolution at the end", "pixels in the dense layer", "groups"],
)
def test_what_cannot_be_padded_is_returned(network: nn.Module) -> None:
    assert pad_channels(network.eval(), 16) is network
