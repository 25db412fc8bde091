"""A network of the zoo as it is after training, as far as a compiler can tell."""

from __future__ import annotations

import torch
from torch import nn

from tvm_mnas.models.zoo.entry import ZooEntry


def settled(entry: ZooEntry) -> nn.Module:
    """The network in eval mode with batch norm statistics of noise: fresh ones would hide a wrong fold."""
    network = entry.build(seed=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        shape = (4, *entry.input_shape[1:])
        network(torch.randn(shape, generator=generator))
    return network.eval()


def assert_drawn_from_its_seed(entry: ZooEntry) -> None:
    """Equal seeds are equal weights, other seeds others, and torch's own generator stays as it was."""
    state = torch.get_rng_state()
    first, again, other = entry.build(seed=1), entry.build(seed=1), entry.build(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(left, right) for left, right in pairs)
