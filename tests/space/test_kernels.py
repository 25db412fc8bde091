"""The kernels of a space, against listing its architectures one by one."""

from __future__ import annotations

import itertools
import random

import pytest
from torch import nn

from tvm_mnas.models.cost import count_cost
from tvm_mnas.models.network import build_network
from tvm_mnas.space.files import load_space, space_names
from tvm_mnas.space.kernels import KernelShape, architecture_kernels, count_kernels, cover
from tvm_mnas.space.space import BlockSpace, SearchSpace

_SMALL = SearchSpace(
    name="small",
    blocks=(
        BlockSpace(
            1, ("conv", "sepconv"), (1, 3), ("none", "avg_pool"), (0.0, 0.25), (16, 24), (1,)
        ),
        BlockSpace(2, ("mbconv3",), (3, 5), ("identity", "max_pool"), (0.0,), (24, 32), (1, 2)),
        BlockSpace(1, ("sepconv", "mbconv3"), (3,), ("none", "identity"), (0.5,), (32,), (1, 3)),
    ),
    input_size=37,
    stem_filters=16,
    head_filters=64,
    classes=10,
    depth_multiplier=0.8,
)


def test_count_is_that_of_every_architecture_listed() -> None:
    ranges = [range(len(decision.choices)) for decision in _SMALL.decisions]
    everything = [_SMALL.decode(tokens) for tokens in itertools.product(*ranges)]
    assert len(everything) == _SMALL.size
    counted = count_kernels(_SMALL)
    listed = {kernel for each in everything for kernel in architecture_kernels(each)}
    assert counted.distinct == listed
    assert sum(counted.kinds.values()) == len(listed)
    mult_adds = [count_cost(each).mult_adds for each in everything]
    assert (counted.least_mult_adds, counted.most_mult_adds) == (min(mult_adds), max(mult_adds))


@pytest.mark.parametrize("name", space_names())
def test_kernels_have_the_mult_adds_of_the_network(name: str) -> None:
    space, rng = load_space(name), random.Random(3)
    counted = count_kernels(space)
    for _ in range(50):
        architecture = space.decode(space.sample(rng))
        kernels = architecture_kernels(architecture)
        cost = count_cost(architecture).mult_adds
        assert sum(kernel.mult_adds for kernel in kernels) == cost
        assert counted.least_mult_adds <= cost <= counted.most_mult_adds
        assert counted.distinct.issuperset(kernels)


@pytest.mark.parametrize("space", [_SMALL, *map(load_space, space_names())], ids=lambda s: s.name)
def test_a_cover_has_exactly_the_kernels_of_the_space(space: SearchSpace) -> None:
    covering = cover(space, 0)
    found = {kernel for each in covering for kernel in architecture_kernels(each)}
    assert found == count_kernels(space).distinct
    assert all(space.decode(space.encode(each)) == each for each in covering)
    assert len(set(covering)) == len(covering)
    assert covering == cover(space, 0)


def test_no_architecture_of_a_cover_is_idle_when_it_is_taken() -> None:
    seen: set[KernelShape] = set()
    for architecture in cover(_SMALL, 5):
        kernels = set(architecture_kernels(architecture))
        assert kernels - seen
        seen |= kernels


def test_kernels_are_the_modules_of_the_network_that_is_built() -> None:
    rng = random.Random(2)
    for _ in range(20):
        architecture = _SMALL.decode(_SMALL.sample(rng))
        built = [
            (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
            if isinstance(module, nn.Conv2d)
            else (module.in_features, module.out_features, 1, 1)
            for module in build_network(architecture).modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        counted = [
            (kernel.in_channels, kernel.out_channels, kernel.kernel_size, kernel.stride)
            for kernel in architecture_kernels(architecture)
            if not kernel.operation.endswith("pool")
        ]
        assert counted == built
