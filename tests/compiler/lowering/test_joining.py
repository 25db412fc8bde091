"""Kernels that wait for memory are joined with their neighbours: convolutions in rows, and a network's end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compiler.targets import CORTEX_A72, HASWELL, runs_here
from tests.compiler.untuned import build_untuned, run_here
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.cores.precision import Precision
from tvm_mnas.models.inference import predict

SHAPE = (1, 8, 10, 10)
"""Between its two convolutions are 8 channels of 10 x 10 pixels, 3,200 bytes."""
BYTES = 3200


def _held(target: str, second_cache_bytes: int, *, lanes: int | None = None, **more: object) -> str:
    core = {"second_cache_bytes": second_cache_bytes} | ({} if lanes is None else {"lanes": lanes})
    return json.dumps({**json.loads(target), **more, "core_model": core})


def _separable(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, size, stride, size // 2, groups=inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    )


class Twice(nn.Module):
    """The second convolution reads the image between them twice: to add it to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU())
        self.point = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        between = self.deep(images)
        return self.point(between) + between


class Residual(nn.Module):
    """What goes in is added to what comes out, as in an inverted residual."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU6())
        self.rest = _separable(16, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.wide(images)) + images


class Gated(nn.Module):
    """A gate stands between them, and reads the image too."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.point = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        between = self.deep(images)
        return self.point(between * self.gate(between))


def _convolutions(lowered: LoweredNetwork) -> list[int]:
    """Return of each kernel with convolutions how many it has."""
    found = [kernel.name.split()[0].split("_").count("conv2d") for kernel in lowered.kernels]
    return sorted(count for count in found if count)


def test_an_image_that_the_second_cache_does_not_hold_is_not_written() -> None:
    network = _separable(8, 12).eval()
    apart = lower_network(network, SHAPE, _held(HASWELL, BYTES))
    joined = lower_network(network, SHAPE, _held(HASWELL, BYTES - 1))
    assert _convolutions(apart) == [1, 1]
    assert _convolutions(joined) == [2]


def _inverted(stride: int = 1) -> nn.Sequential:
    """Between its expansion and its depthwise convolution are 3,200 bytes times 2."""
    return nn.Sequential(
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1), nn.ReLU6(), _separable(16, 8, 3, stride)
    )


def test_so_with_the_image_that_a_depthwise_convolution_reads() -> None:
    network = _inverted(2).eval()
    apart = lower_network(network, SHAPE, _held(HASWELL, 2 * BYTES))
    joined = lower_network(network, SHAPE, _held(HASWELL, 2 * BYTES - 1))
    # The image behind it is a quarter.
    assert _convolutions(apart) == [1, 1, 1, 1]
    assert _convolutions(joined) == [1, 3]
    assert joined.flops == apart.flops
    names = [kernel.name for kernel in joined.kernels]
    assert any(name.endswith(" 1x10x10x8 1x1x8x16 3x3x1x16 1x1x16x8") for name in names)


def test_a_stem_is_in_front_of_a_depthwise_convolution_as_well() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), _separable(8, 8))
    lowered = lower_network(network.eval(), (1, 3, 20, 20), _held(CORTEX_A72, BYTES - 1))
    assert _convolutions(lowered) == [3]


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        (nn.Sequential(nn.Conv2d(8, 8, 1), *(_separable(8, 8) for _ in range(3))), [2, 3]),
        (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), _separable(8, 8)), [1, 2]),
        (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=2), _separable(8, 8)), [1, 2]),
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.AvgPool2d(3, 1), _separable(8, 8)), [1, 2]),
    ],
    ids=["what ends a chain", "depthwise in front", "grouped in front", "pooled between"],
)
def test_what_else_is_in_front_of_a_pair_stays_apart(network: nn.Module, counts: list[int]) -> None:
    assert _convolutions(lower_network(network.eval(), SHAPE, _held(CORTEX_A72, 1))) == counts


def test_the_weights_of_both_are_in_the_name() -> None:
    lowered = lower_network(_separable(8, 16).eval(), SHAPE, _held(CORTEX_A72, 1))
    names = [kernel.name for kernel in lowered.kernels]
    assert "conv2d_add_relu_conv2d_add 1x8x10x10 3x3x1x8 1x1x8x16" in names


def test_equal_pairs_are_one_kernel() -> None:
    # The first convolution reads the image as it comes, and so is no other's equal; the pooling keeps it apart.
    first = nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(3, 1, 1))
    pairs = [nn.Sequential(nn.ReLU(), _separable(8, 8)) for _ in range(2)]
    network = nn.Sequential(first, *pairs, nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    lowered = lower_network(network, SHAPE, _held(CORTEX_A72, 1))
    calls = {kernel.calls for kernel in lowered.kernels if kernel.name.count("conv2d") == 2}
    assert calls == {2}


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        (Twice(), [1, 1]),
        (Gated(), [1, 1, 1]),
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)), [1, 1]),
        (nn.Sequential(_separable(8, 8)[:2], nn.Conv2d(8, 8, 1, stride=2)), [1, 1]),
        (nn.Sequential(_separable(8, 8)[:2], nn.Conv2d(8, 8, 3)), [1, 1]),
        (nn.Sequential(_separable(8, 8)[:2], nn.Conv2d(8, 8, 1, groups=2)), [1, 1]),
    ],
    ids=["read twice", "gated", "full", "stride 2", "3x3 behind", "grouped behind"],
)
def test_others_stay_apart(network: nn.Module, counts: list[int]) -> None:
    assert _convolutions(lower_network(network.eval(), SHAPE, _held(CORTEX_A72, 1))) == counts


def test_several_threads_share_rows_among_them_and_have_kernels_apart() -> None:
    target = _held(CORTEX_A72, 1, **{"num-cores": 2})
    assert _convolutions(lower_network(_separable(8, 8).eval(), SHAPE, target)) == [1, 1]


@pytest.mark.parametrize(
    "network",
    [_separable(8, 12), _separable(8, 6, 5, 2), _inverted(2), Residual(), Gated(), Twice()],
    ids=["separable", "5x5, stride 2", "expanded", "residual", "gated", "read twice"],
)
def test_a_joined_network_computes_what_torch_computes(network: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lowered = lower_network(network.eval(), SHAPE, _held(runs_here(), 1))
    images = np.random.default_rng(0).standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    found = run_here(build_untuned(lowered, tmp_path), images)
    np.testing.assert_allclose(found, predict(network, images), rtol=1e-4, atol=1e-5)


def test_what_reads_the_first_channels_alone_is_joined_too(tmp_path: Path) -> None:
    # 24 channels fill up two vectors of 16: the pairs read 24 of 32 that the depthwise convolutions write.
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 24, 1), nn.ReLU6(), _separable(24, 24)),
        *(nn.MaxPool2d(3, 1, 1), _separable(24, 24), nn.MaxPool2d(3, 1, 1)),
        *(nn.Conv2d(24, 48, 1), nn.ReLU(), Mean(), nn.Linear(48, 16)),
    ).eval()
    lowered = lower_network(network, SHAPE, _held(runs_here(), 1, lanes=16))
    assert _convolutions(lowered) == [1, 1, 2, 3]
    assert _dense(lowered).startswith("conv2d_add_relu_")
    assert {one for kernel in lowered.kernels for one in kernel.name.split()} >= {"1x1x24x48"}
    images = np.random.default_rng(0).standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    found = run_here(build_untuned(lowered, tmp_path), images)
    np.testing.assert_allclose(found, predict(network, images), rtol=1e-4, atol=1e-5)


def test_half_precision_is_joined_too() -> None:
    target = _held(CORTEX_A72, BYTES // 2 - 1)
    half = Precision("float16", "float16")
    lowered = lower_network(_separable(8, 8).eval(), SHAPE, target, precision=half)
    assert _convolutions(lowered) == [2]


class Mean(nn.Module):
    """The mean over all pixels, as exporters write it."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


class Unmeant(nn.Module):
    """What the classifier reads goes out too."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(8, 32, 1), nn.ReLU(), Mean())
        self.classifier = nn.Linear(32, 16)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.before(images)
        return self.classifier(features), features


def _end(
    *, classes: int = 16, pooling: nn.Module | None = None, size: int = 1, bias: bool = True
) -> nn.Sequential:
    pooled = [Mean()] if pooling is None else [pooling, nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 32, size, padding=size // 2),
        nn.ReLU(),
        *pooled,
        nn.Linear(32, classes, bias=bias),
    )


def _dense(lowered: LoweredNetwork) -> str:
    """Return the operations of the kernel that has the classifier."""
    (name,) = [kernel.name for kernel in lowered.kernels if "matmul" in kernel.name]
    return name.split()[0]


@pytest.mark.parametrize("pooling", [None, nn.AdaptiveAvgPool2d(1)], ids=["mean", "pooling"])
def test_weights_that_the_second_cache_does_not_hold_come_while_the_convolution_computes(
    pooling: nn.Module | None,
) -> None:
    network = _end(pooling=pooling).eval()
    weights_bytes = 4 * 32 * 16
    apart = lower_network(network, SHAPE, _held(HASWELL, weights_bytes))
    joined = lower_network(network, SHAPE, _held(HASWELL, weights_bytes - 1))
    assert _dense(apart) == "matmul_add"
    assert _dense(joined).startswith("conv2d_add_relu_")
    assert any(kernel.name.endswith(" 1x1x8x32 32x16") for kernel in joined.kernels)
    assert joined.kernel_calls < apart.kernel_calls
    assert joined.flops == apart.flops


@pytest.mark.parametrize(
    "network",
    [
        _end(classes=17),
        _end(bias=False),
        _end(size=3),
        nn.Sequential(*_end()[:3], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 16)),
        nn.Sequential(*_end(), nn.ReLU(), nn.Linear(16, 16)),
        Unmeant(),
    ],
    ids=["17 classes", "no bias", "3x3", "2x2 pixels", "two layers", "read twice"],
)
def test_other_ends_stay_apart(network: nn.Module) -> None:
    lowered = lower_network(network.eval(), SHAPE, _held(CORTEX_A72, 1))
    names = [kernel.name.split()[0].split("_") for kernel in lowered.kernels]
    assert not any("conv2d" in name and "matmul" in name for name in names)


def test_several_threads_and_half_precision_have_ends_apart() -> None:
    network = _end().eval()
    several = lower_network(network, SHAPE, _held(CORTEX_A72, 1, **{"num-cores": 2}))
    assert _dense(several) == "matmul_add"
    half = Precision("float16", "float16")
    lowered = lower_network(network, SHAPE, _held(CORTEX_A72, 1), precision=half)
    assert "conv2d" not in _dense(lowered)


def test_a_pair_that_the_end_begins_with_stays_a_pair() -> None:
    network = nn.Sequential(
        nn.MaxPool2d(3, 1, 1), _separable(8, 32), nn.ReLU(), Mean(), nn.Linear(32, 16)
    )
    lowered = lower_network(network.eval(), SHAPE, _held(CORTEX_A72, 1))
    assert _convolutions(lowered) == [2]
    assert _dense(lowered) == "matmul_add"


@pytest.mark.parametrize(
    "pooling",
    [None, nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(10)],
    ids=["mean", "pooling", "the largest"],
)
def test_a_joined_end_computes_what_torch_computes(
    pooling: nn.Module | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = _end(pooling=pooling).eval()
    lowered = lower_network(network, SHAPE, _held(runs_here(), 1))
    assert "conv2d" in _dense(lowered)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    found = run_here(build_untuned(lowered, tmp_path), images)
    np.testing.assert_allclose(found, predict(network, images), rtol=1e-4, atol=1e-5)
