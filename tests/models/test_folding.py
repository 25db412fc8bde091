"""Batch norms folded into convolutions: what torch's own, slower way computes, and nothing shared with the original."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tvm_mnas.models.folding import ChannelScale, fold_batch_norm
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture

NOTATIONS = (
    "i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8_noskip:r2_k5_s22_e3_i8_o16_se0.25:head32:n10",
    "i32_c3_w1:stem8_s22:r2_k3_s22_e6_i8_o24:head32:n10",
)


class Twice(nn.Module):
    """One convolution that is called twice, and a norm behind each call."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        once: Tensor = self.first(self.convolution(images))
        twice: Tensor = self.second(self.convolution(once))
        return twice


class TwoNames(Twice):
    """The same with a name for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.convolution

    def forward(self, images: Tensor) -> Tensor:
        once: Tensor = self.first(self.convolution(images))
        twice: Tensor = self.second(self.again(once))
        return twice


class Shared(nn.Module):
    """A convolution whose output is used without its norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        summed: Tensor = features + self.norm(features)
        return summed


def _settle(network: nn.Module, images: Tensor) -> nn.Module:
    with torch.no_grad():
        for _ in range(3):
            network.train()(images + torch.randn_like(images))
    return network.eval()


@pytest.mark.parametrize("notation", NOTATIONS)
def test_the_network_is_that_of_torchs_own_way(notation: str) -> None:
    network = _settle(
        build_network(Architecture.parse(notation), seed=3), torch.randn(4, 3, 32, 32)
    )
    ours, theirs = fold_batch_norm(network), fuse(network)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, values in ours.state_dict().items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0)
    assert not any(module.training for module in ours.modules())


@pytest.mark.parametrize("notation", NOTATIONS)
def test_nothing_is_shared_with_the_original(notation: str) -> None:
    network = build_network(Architecture.parse(notation))
    theirs = {tensor.data_ptr() for tensor in network.state_dict().values() if tensor.numel()}
    ours = {tensor.data_ptr() for tensor in fold_batch_norm(network).state_dict().values()}
    assert not theirs & ours
    modules = {id(module) for module in network.modules()}
    assert not modules & {id(module) for module in fold_batch_norm(network).modules()}


@pytest.mark.parametrize("make", [Twice, TwoNames, Shared])
def test_a_convolution_that_something_else_reads_keeps_its_weights(make: type[nn.Module]) -> None:
    images = torch.randn(8, 4, 5, 5)
    network = _settle(make(), images)
    folded = fold_batch_norm(network)
    assert any(isinstance(module, ChannelScale) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-5, atol=1e-5)


def test_a_norm_that_keeps_no_statistics_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="running mean"):
        fold_batch_norm(network)
