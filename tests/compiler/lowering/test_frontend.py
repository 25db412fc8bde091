"""The short way from torch to Relax gives what torch.export gives, and is taken for what it knows alone."""

from __future__ import annotations

import gc
import operator

import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from torch import Tensor, fx, nn
from tvm import relax

from tests.compiler.conftest import Mean
from tvm_mnas.compiler.lowering import frontend
from tvm_mnas.compiler.lowering.frontend import import_by_export, import_network, is_translated
from tvm_mnas.compiler.lowering.kernels import kernels_of
from tvm_mnas.compiler.lowering.lower import _lowered
from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture

_TAIL = "head32:n10"
_KNOWN = [
    "i32_c3_w1:stem16_s22:r2_k3_s22_e3_i16_o24:r2_k5_s11_e6_i24_o24_noskip",
    "i32_c3_w1:stem16_s22:r2_k3_s22_e3_i16_o24_se0.25:r1_k5_s22_conv_i24_o40_se0.5",
    "i32_c3_w0.5:stem16_s11:r2_k3_s11_e1_i16_o16_max:r2_k3_s22_conv_i16_o16_max",
]


def _folded(notation: str) -> tuple[fx.GraphModule, tuple[int, int, int, int]]:
    architecture = Architecture.parse(f"{notation}:{_TAIL}")
    folded = fold_batch_norm(build_network(architecture, seed=3).eval())
    assert isinstance(folded, fx.GraphModule)
    size = architecture.input_size
    return folded, (1, architecture.input_channels, size, size)


@pytest.mark.parametrize("notation", _KNOWN)
def test_the_short_way_gives_the_kernels_and_weights_of_the_long_one(
    notation: str, target: str
) -> None:
    network, shape = _folded(notation)
    assert is_translated(network)
    with torch.no_grad():
        short, long = import_network(network, shape), import_by_export(network, shape)
        modules = [_lowered(module, target) for module in (short, long)]
    keys = [[(kernel.key, kernel.calls) for kernel in kernels_of(module)] for module in modules]
    assert keys[0] == keys[1]
    assert tvm_ffi.structural_equal(*modules)


def test_an_average_pooling_takes_the_long_way() -> None:
    network, _ = _folded("i32_c3_w1:stem16_s22:r2_k3_s11_e1_i16_o16_avg")
    assert not is_translated(network)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return operator.mul(self.conv(images), 2.0)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")),
        nn.Sequential(nn.Conv2d(3, 8, 3, padding="same")),
        nn.Sequential(nn.MaxPool2d(2, return_indices=True)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU()),
        nn.Sequential(nn.Conv2d(3, 8, 1), Mean()),
        _Scaled(),
    ],
    ids=["reflect", "same", "indices", "gelu", "method", "number"],
)
def test_what_the_translator_might_get_wrong_takes_the_long_way(network: nn.Module) -> None:
    assert not is_translated(fx.symbolic_trace(network.eval()))
    assert is_translated(fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)).eval()))


class _Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return features.narrow(1, 1, 4) * features.narrow(1, -4, 4)


def test_a_narrowed_tensor_is_taken_from_where_it_starts() -> None:
    torch.manual_seed(0)
    network, images = _Halves().eval(), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        module = import_by_export(network, (1, 3, 4, 4))
        expected = network(images)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(images.numpy())).numpy()
    # A sum of products near one has float32's rounding also where it is near zero.
    assert np.allclose(found, expected, atol=1e-6)


def test_a_first_try_that_fails_leaves_nothing_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def refuse(node: fx.Node, importer: object) -> object:
        tries.append(node)
        raise ValueError("not this one")

    monkeypatch.setattr(frontend, "_narrow", refuse)
    with torch.no_grad():
        import_by_export(_Halves().eval(), (1, 3, 4, 4))
    gc.collect()
    assert len(tries) == 1
    assert capfd.readouterr().err == ""
