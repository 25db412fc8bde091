"""Bfloat16: what convolutions read is rounded to it, sums and single steps stay float32, and so do both ends."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.compiler.conftest import SHAPE, small_network
from tests.compiler.scheduled import module_of
from tests.compiler.untuned import build_untuned, run_all_here, run_here
from tvm_mnas.compiler.lowering.bfloat import rounded
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.cores.precision import Precision

BFLOAT = Precision("bfloat16", "float32")
ROUNDING = 2.0**-8


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    rng = np.random.default_rng(0)
    # Ties among them: the lower half of a float32 is one half of the last place, and nothing else.
    ties = (rng.integers(0, 2**16, 1000, dtype=np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    some = rng.standard_normal(1000, dtype=np.float32) * np.float32(1e3)
    ends = np.array([0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40, 1e-45], np.float32)
    for values in (ties.view(np.float32), some, ends):
        finite = values[~np.isnan(values)]
        expected = torch.from_numpy(finite).bfloat16().view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(rounded(finite), expected)
    none = rounded(np.array([np.nan, -np.nan], np.float32)).astype(np.uint32) << np.uint32(16)
    assert np.isnan(none.view(np.float32)).all()


def test_images_and_outputs_stay_float32(target: str) -> None:
    lowered = lower_network(small_network(), SHAPE, target, precision=BFLOAT)
    main = lowered.module["main"]
    (images,) = main.params
    assert [str(images.ty.dtype), str(main.ret_ty.dtype)] == ["float32", "float32"]
    assert lowered.precision == BFLOAT


def test_no_rounding_is_a_kernel_of_its_own(target: str) -> None:
    whole = lower_network(small_network(), SHAPE, target)
    half = lower_network(small_network(), SHAPE, target, precision=BFLOAT)
    assert half.kernel_calls == whole.kernel_calls
    assert any(re.match(r"conv2d\w* 1x3x", kernel.name) for kernel in half.kernels)
    # What is added after a sum stays float32.
    assert half.moved_bytes < 0.65 * whole.moved_bytes


def test_what_one_step_leaves_for_the_next_is_not_rounded_on_the_way(target: str) -> None:
    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 1)).eval()
    lowered = lower_network(network, (1, 16, 6, 6), target, precision=BFLOAT)
    (first,) = (kernel for kernel in lowered.kernels if "minimum" in kernel.name)
    code = str(module_of(first).script())
    assert code.count('T.Cast("uint16"') == 1
    # Weights and nothing else: the image is the network's.
    assert code.count('T.Cast("uint32"') == 1


class Middle(nn.Module):
    """What stands between convolutions: a shortcut, a gate, a join of channels, poolings, an exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1)
        )
        self.strided = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=4)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.last = nn.Conv2d(48, 8, 1)
        self.classifier = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.nn.functional.hardswish(self.stem(images))
        features = features * torch.sigmoid(self.gate(features)) + features
        strided = torch.nn.functional.silu(self.strided(features))
        dilated = torch.nn.functional.max_pool2d(self.dilated(features), 3, 2, 1)
        pooled = torch.nn.functional.avg_pool2d(features, 3, 2, 1)
        joined = self.last(torch.cat([strided, dilated, pooled], 1))
        return torch.softmax(self.classifier(joined.mean((2, 3))), 1), joined


def test_every_step_between_convolutions_computes_what_torch_does(
    target: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Middle().eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    lowered = lower_network(network, (1, 3, 8, 8), target, precision=BFLOAT)
    found = run_all_here(build_untuned(lowered, tmp_path), images)
    with torch.no_grad():
        expected = [output.numpy() for output in network(torch.from_numpy(images))]
    for output, right in zip(found, expected, strict=True):
        assert output.dtype == np.float32
        error = np.abs(output - right).max() / np.abs(right).max()
        # As much as roundings do, and no less: float32 would be a thousand times nearer.
        assert 2.0**-14 < error < 4 * ROUNDING


def test_a_mean_of_many_pixels_is_one(target: str, tmp_path: Path) -> None:
    """A sum in bfloat16 would stay at 256 however many ones are added."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1))
    lowered = lower_network(network, (1, 8, 56, 56), target, precision=BFLOAT)
    found = run_here(build_untuned(lowered, tmp_path), np.ones((1, 8, 56, 56), np.float32))
    np.testing.assert_array_equal(found.ravel(), np.ones(8, np.float32))


def test_channels_that_fill_up_a_vector_are_not_summed_over_either(tmp_path: Path) -> None:
    from tests.compiler.targets import SKYLAKE_AVX512, runs_here

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 16, 1)).eval()
    names = [
        kernel.name
        for kernel in lower_network(network, (1, 3, 8, 8), SKYLAKE_AVX512, precision=BFLOAT).kernels
    ]
    assert any("1x1x24x16" in name for name in names)
    assert sum("conv2d" in name for name in names) == 2
    lowered = lower_network(network, (1, 3, 8, 8), runs_here(), precision=BFLOAT)
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    found = run_here(build_untuned(lowered, tmp_path), images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(found - expected).max() < 4 * ROUNDING * np.abs(expected).max()
