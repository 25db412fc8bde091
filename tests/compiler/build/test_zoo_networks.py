"""Every network of the zoo through the compiler at its full size, as TVM builds it untuned: minutes, so `-m slow`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compiler.elf import AARCH64, made_for
from tests.compiler.untuned import build_untuned, run_here
from tests.models.settled import settled
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.models.detection.detector import Decoded, Detector
from tvm_mnas.models.exchange.onnx_file import read_onnx
from tvm_mnas.models.exchange.onnx_network import to_torch
from tvm_mnas.models.inference import export_onnx, predict
from tvm_mnas.models.zoo.detectors import DETECTORS
from tvm_mnas.models.zoo.registry import ZOO, zoo_entry

KEYS = [entry.key for entry in (*ZOO, *DETECTORS)]
RELATIVE = 1e-3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("key", KEYS)
def test_it_computes_what_torch_does(key: str, target: str, tmp_path: Path) -> None:
    entry = zoo_entry(key)
    network = up_to_suppression(settled(entry))
    images = np.random.default_rng(1).standard_normal((2, *entry.input_shape[1:]), dtype=np.float32)
    expected = predict(network, images)
    # Outputs that hardly depend on the image would agree whatever is computed.
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
    lowered = lower_network(network, entry.input_shape, target)
    assert off(run_here(build_untuned(lowered, tmp_path), images), expected) < RELATIVE


@pytest.mark.parametrize("key", KEYS)
def test_its_onnx_comes_back_and_computes_that_too(key: str, target: str, tmp_path: Path) -> None:
    entry = zoo_entry(key)
    network = up_to_suppression(settled(entry))
    images = np.random.default_rng(1).standard_normal((1, *entry.input_shape[1:]), dtype=np.float32)
    path = tmp_path / "net.onnx"
    export_onnx(network, entry.input_shape, path)
    file = read_onnx(path)
    assert file.input_shape == entry.input_shape
    lowered = lower_network(to_torch(file), file.input_shape, target)
    assert (
        off(run_here(build_untuned(lowered, tmp_path), images), predict(network, images)) < RELATIVE
    )


@pytest.mark.parametrize("key", KEYS)
def test_it_builds_for_arm(key: str, tmp_path: Path) -> None:
    entry = zoo_entry(key)
    profile = load_profile("emulated-aarch64")
    lowered = lower_network(settled(entry), entry.input_shape, profile.target)
    assert made_for(build_untuned(lowered, tmp_path)) == AARCH64


class _Joined(nn.Module):
    """Boxes and scores side by side, so that they are one output."""

    def __init__(self, decoded: nn.Module) -> None:
        super().__init__()
        self.decoded = decoded

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.decoded(images), 2)


def up_to_suppression(network: nn.Module) -> nn.Module:
    """A detector without its last step, which is no arithmetic: two scores that differ by rounding change places."""
    return _Joined(Decoded(network)).eval() if isinstance(network, Detector) else network


def off(outputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude that torch has."""
    assert outputs.shape == expected.shape
    assert np.isfinite(outputs).all()
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())
