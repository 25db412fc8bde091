"""Optimizers against their published definitions, and which weights decay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.average import average_of, counted
from tvm_mnas.training.optimizers import TensorFlowRMSProp, build_optimizer, parameter_groups
from tvm_mnas.training.recipe import Recipe


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_rmsprop_is_the_published_one(weight_decay: float) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 4))
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = TensorFlowRMSProp(
        [weight], lr=0.1, decay=0.9, momentum=0.8, epsilon=1e-3, weight_decay=weight_decay
    )
    expected, square, momentum = start.copy(), np.ones((3, 4)), np.zeros((3, 4))
    for step in range(7):
        gradient = rng.standard_normal((3, 4))
        rate = 0.1 / (step + 1)
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        gradient += weight_decay * expected
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.8 * momentum + rate * gradient / np.sqrt(square + 1e-3)
        expected -= momentum
        assert np.allclose(weight.detach(), expected, rtol=1e-12, atol=0)


def test_the_first_step_worked_out_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = TensorFlowRMSProp([weight], lr=0.256, epsilon=1e-3)
    weight.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    # s = 0.9 + 0.1 x 4 = 1.3; m = 0.256 x 2 / sqrt(1.301) = 0.448880
    assert float(weight.detach()) == pytest.approx(1 - 0.512 / 1.301**0.5)


@pytest.mark.parametrize("decay_biases", [False, True])
def test_norms_do_not_decay_and_biases_only_if_asked(
    tiny: Architecture, decay_biases: bool
) -> None:
    network = build_network(tiny)
    decayed, others = parameter_groups(network, 0.1, decay_biases=decay_biases)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    kinds = {
        id(parameter): (type(module).__name__, name)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    for group, decays in ((decayed, True), (others, False)):
        for parameter in group["params"]:
            kind, name = kinds[id(parameter)]
            assert decays == (kind != "BatchNorm2d" and (decay_biases or name != "bias"))
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_each_optimizer_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    optimizer = build_optimizer(network, Recipe(steps=1, optimizer=name))
    images = torch.randn(64, 4)
    wanted = images.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(60):
        loss = (network(images) - wanted).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.02
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_the_average_worked_out_by_hand() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, 1.0)
    average = average_of(network, 0.3)
    copy = average.module[0].weight
    expected = 1.0
    # n = 1, 2, 3: (1 + n) / (10 + n) = 2/11, 3/12, 4/13; the last is above 0.3.
    for value, kept in ((5.0, 2 / 11), (-2.0, 3 / 12), (7.0, 0.3)):
        nn.init.constant_(network[0].weight, value)
        nn.init.constant_(network[1].running_mean, value)
        average.update_parameters(network)
        expected = kept * expected + (1 - kept) * value
        assert float(copy.detach()) == pytest.approx(expected)
    assert int(counted(average)) == 4
    # Running statistics are averaged, too: from 0.
    mean = (1 - 2 / 11) * 5.0
    mean = 3 / 12 * mean + 9 / 12 * -2.0
    assert float(average.module[1].running_mean) == pytest.approx(0.3 * mean + 0.7 * 7.0)
