"""Half precision: float16 inside, float32 at both ends, and in float32 what float16 has no room for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compiler.conftest import SHAPE, small_network
from tests.compiler.scheduled import module_of
from tests.compiler.targets import CORTEX_A76
from tests.compiler.untuned import build_untuned, run_all_here, run_here
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.cores.precision import FLOAT32, Precision

HALF = Precision("float16", "float16")
WIDE_SUMS = Precision("float16", "float32")
BOTH = pytest.mark.parametrize("precision", [HALF, WIDE_SUMS], ids=str)


class Ends(nn.Module):
    """Two outputs, one of them what the other is made of; bytes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layer(images.float() / 64)
        return found, torch.tanh(found).mean((2, 3))


def _types(lowered: LoweredNetwork, name: str) -> set[str]:
    """Return the types of all buffers of the kernels whose name starts with `name`."""
    return {
        dtype
        for kernel in lowered.kernels
        if kernel.name.startswith(name)
        for dtype in re.findall(r"float16|float32", _code(lowered, kernel.key))
    }


def _code(lowered: LoweredNetwork, key: str) -> str:
    """Return the code of the kernel `key`."""
    (kernel,) = (kernel for kernel in lowered.kernels if kernel.key == key)
    return str(module_of(kernel).script())


@BOTH
def test_images_and_outputs_stay_float32(precision: Precision, target: str) -> None:
    lowered = lower_network(small_network(), SHAPE, target, precision=precision)
    main = lowered.module["main"]
    (images,) = main.params
    assert [str(images.ty.dtype), str(main.ret_ty.dtype)] == ["float32", "float32"]
    assert lowered.precision == precision
    assert lowered.input_dtype == "float32"


@BOTH
def test_no_cast_is_a_kernel_of_its_own(precision: Precision, target: str) -> None:
    whole = lower_network(small_network(), SHAPE, target)
    half = lower_network(small_network(), SHAPE, target, precision=precision)
    assert half.kernel_calls == whole.kernel_calls
    # The image goes into the first convolution as it comes.
    assert any(re.match(r"conv2d\w* 1x3x", kernel.name) for kernel in half.kernels)
    assert half.moved_bytes < 0.6 * whole.moved_bytes


def test_equal_kernels_of_another_precision_have_other_keys(target: str) -> None:
    keys = [
        {
            kernel.key
            for kernel in lower_network(small_network(), SHAPE, target, precision=one).kernels
        }
        for one in (FLOAT32, HALF, WIDE_SUMS)
    ]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]


def test_float32_is_what_it_was_without_a_choice(target: str) -> None:
    chosen = lower_network(small_network(), SHAPE, target, precision=FLOAT32)
    assert chosen.kernels == lower_network(small_network(), SHAPE, target).kernels


def test_sums_are_of_the_type_that_is_asked_for(target: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.Flatten(), nn.Linear(24 * 36, 10)
    ).eval()
    shape = (1, 16, 6, 6)
    half = lower_network(network, shape, target, precision=HALF)
    wide = lower_network(network, shape, target, precision=WIDE_SUMS)
    assert _types(half, "conv2d_add 1x6x6x16") == {"float16"}
    assert _types(wide, "conv2d_cast_add 1x6x6x16") == {"float16", "float32"}
    assert _types(wide, "matmul") == {"float16", "float32"}


def test_channels_are_whole_vectors_of_the_sums_type() -> None:
    network = nn.Sequential(nn.Conv2d(3, 20, 1), nn.ReLU(), nn.Conv2d(20, 8, 1)).eval()

    def inner(precision: Precision) -> list[str]:
        kernels = lower_network(network, (1, 3, 4, 4), CORTEX_A76, precision=precision).kernels
        return [kernel.name.split()[1] for kernel in kernels if "conv2d" in kernel.name]

    assert "1x4x4x20" in inner(FLOAT32)
    assert "1x4x4x24" in inner(HALF)
    assert "1x4x4x20" in inner(WIDE_SUMS)


MIDDLES: dict[str, nn.Module] = {
    "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(0.1),
    "hard-swish": nn.Hardswish(),
    "hard-sigmoid": nn.Hardsigmoid(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "softplus": nn.Softplus(),
    "softmax": nn.Softmax(1),
    "layer norm": nn.GroupNorm(1, 16),
    "max pooling": nn.MaxPool2d(3, 2, 1),
    "average pooling": nn.AvgPool2d(2, 2),
    "padded average pooling": nn.AvgPool2d(3, 2, 1),
    "adaptive pooling": nn.AdaptiveAvgPool2d(3),
    "reflected edge": nn.ReflectionPad2d(1),
    "up": nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_what_stands_between_convolutions_computes_what_torch_does(
    name: str, target: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), MIDDLES[name], nn.Conv2d(16, 8, 1)
    ).eval()
    # Far enough for an exponential in float16 to be infinite.
    images = 20 * np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    lowered = lower_network(network, (1, 3, 8, 8), target, precision=WIDE_SUMS)
    found = run_here(build_untuned(lowered, tmp_path), images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 8 * 2**-11 * np.abs(expected).max()


@BOTH
@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(112)], ids=repr)
def test_a_mean_of_many_pixels_is_one(
    layer: nn.Module, precision: Precision, target: str, tmp_path: Path
) -> None:
    """A sum in float16 stays at 2048 however many ones are added."""
    lowered = lower_network(nn.Sequential(layer), (1, 8, 112, 112), target, precision=precision)
    found = run_here(build_untuned(lowered, tmp_path), np.ones((1, 8, 112, 112), np.float32))
    np.testing.assert_array_equal(found.ravel(), np.ones(8, np.float32))


def test_bytes_go_in_and_several_outputs_come_out(target: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Ends().eval()
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    lowered = lower_network(network, (1, 3, 8, 8), target, input_dtype="uint8", precision=HALF)
    found = run_all_here(build_untuned(lowered, tmp_path), images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    assert [output.dtype for output in found] == [np.float32, np.float32]
    for output, right in zip(found, expected, strict=True):
        assert np.abs(output - right.numpy()).max() < 8 * 2**-11 * np.abs(right.numpy()).max()
