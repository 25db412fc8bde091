"""Padding channels with zeros: the same outputs, whole vectors everywhere inside, nothing done where it is not safe."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from tests.models.settled import settled
from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.network import build_network
from tvm_mnas.models.padding import pad_channels
from tvm_mnas.models.zoo.detectors import DETECTORS
from tvm_mnas.models.zoo.entry import ZooEntry
from tvm_mnas.models.zoo.registry import ZOO
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
    assert all(
        module.in_channels % (8 if module.groups == 1 else 16) == 0 for module in convolutions[1:]
    )
    assert convolutions[0].in_channels == 3


def test_what_fills_up_a_vector_is_not_summed_over() -> None:
    layers = [nn.Conv2d(3, 20, 1), nn.Conv2d(20, 28, 3), nn.Conv2d(28, 16, 1), nn.Conv2d(16, 8, 1)]
    convolutions = [
        module
        for module in pad_channels(nn.Sequential(*layers).eval(), 16).modules()
        if isinstance(module, nn.Conv2d)
    ]
    extents = [(module.in_channels, module.out_channels) for module in convolutions]
    assert extents == [(3, 32), (24, 32), (32, 16), (16, 8)]


def test_the_network_given_is_left_as_it_is() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pad_channels(network.eval(), 16)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Partly(nn.Module):
    """Has channels of every kind: to widen (24, 40), joined, added to what is joined, called twice, given out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.deep = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.branch = nn.Conv2d(24, 40, 1)
        self.added = nn.Conv2d(40, 12, 1)
        self.joined = nn.Conv2d(40, 12, 1)
        self.after = nn.Conv2d(20, 24, 1)
        self.shared = nn.Conv2d(24, 24, 1)
        self.other = nn.Conv2d(24, 8, 1)
        self.relu = nn.ReLU()
        self.out = nn.Conv2d(24, 10, 1)

    def forward(self, images: Tensor) -> Tensor:
        wide = self.relu(self.branch(self.relu(self.deep(self.stem(images)))))
        both = torch.cat([self.joined(wide) + self.added(wide), self.other(self.stem2(images))], 1)
        return self.out(self.shared(self.shared(self.after(both))))

    def stem2(self, images: Tensor) -> Tensor:
        return images.repeat(1, 8, 1, 1)


def test_what_cannot_take_zeros_keeps_its_channels_and_the_rest_is_padded() -> None:
    torch.manual_seed(0)
    network = Partly().eval()
    padded = pad_channels(network, 16)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(padded(images), network(images), rtol=1e-4, atol=1e-5)
    extents = {
        name: (module.in_channels, module.out_channels, module.groups)
        for name, module in padded.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    assert extents == {
        "stem": (3, 32, 1),
        "deep": (32, 32, 32),
        "branch.convolution": (24, 48, 1),
        "added.convolution": (40, 12, 1),
        "joined.convolution": (40, 12, 1),
        "other": (24, 8, 1),
        "after": (20, 24, 1),
        "shared": (24, 24, 1),
        "out": (24, 10, 1),
    }


@pytest.mark.parametrize(
    "entry",
    [*ZOO, *(entry for entry in DETECTORS if entry.key.endswith("ssdlite"))],
    ids=lambda entry: entry.key,
)
def test_padded_networks_of_the_zoo_are_the_same_functions(entry: ZooEntry) -> None:
    network = fold_batch_norm(settled(entry))
    padded = pad_channels(network, 16)
    images = torch.randn(entry.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, actual = network(images), padded(images)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


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
