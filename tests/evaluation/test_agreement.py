"""A wrong network is found, whatever its last layer; a right one passes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tvm_mnas.cores.precision import Precision
from tvm_mnas.errors import MeasurementError
from tvm_mnas.evaluation.agreement import (
    CHECKED_IMAGES,
    TOLERANCES,
    Judge,
    check_images,
    compare_outputs,
    torch_judge,
)
from tvm_mnas.models.folding import fold_batch_norm

SHAPE = (1, 3, 24, 24)
HALF = Precision("float16", "float16")
HEADS: dict[str, Callable[[], nn.Module]] = {
    "plain": nn.Identity,
    "softmax": lambda: nn.Softmax(1),
    "sigmoid": nn.Sigmoid,
}


def network(head: str, *, classes: int = 100) -> nn.Sequential:
    """Return a small network with batch norms, its statistics those of what flows through it."""
    torch.manual_seed(2)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
        HEADS[head](),
    )
    layers.train()
    for _ in range(20):
        layers(torch.randn(16, *SHAPE[1:]))
    return layers.eval()


def _pad(net: nn.Sequential) -> None:
    net[0] = _changed(net[0], padding=(0, 0))


def _one_sided_pad(net: nn.Sequential) -> None:
    net[0] = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), _changed(net[0], padding=(0, 0)))


def _stride(net: nn.Sequential) -> None:
    net[3] = _changed(net[3], stride=(2, 2))


def _swapped_channels(net: nn.Sequential) -> None:
    weight = net[6].weight
    assert isinstance(weight, nn.Parameter)
    weight.data[:, [3, 7]] = weight.data[:, [7, 3]]


def _forgotten_bias(net: nn.Sequential) -> None:
    net[3] = _changed(net[3], bias=None)


def _scaled(net: nn.Sequential) -> None:
    last = net[9]
    assert isinstance(last, nn.Linear)
    last.weight.data *= 1.01


def _changed(layer: nn.Module, **changes: object) -> nn.Module:
    changed = copy.deepcopy(layer)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


DEFECTS = [_pad, _one_sided_pad, _stride, _swapped_channels, _forgotten_bias, _scaled]


def _compiled_wrong(
    head: str, defect: Callable[[nn.Sequential], None]
) -> tuple[nn.Sequential, Judge, NDArray[np.generic]]:
    """Return a network with the defect, who judges it by the one without, and images to tell."""
    right = network(head)
    wrong = copy.deepcopy(right)
    defect(wrong)
    judge = torch_judge(right, batch_size=1)
    return wrong, judge, check_images(SHAPE, "float32", seed=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_network_that_is_compiled_wrong_is_refused(
    head: str, defect: Callable[[nn.Sequential], None]
) -> None:
    wrong, judge, images = _compiled_wrong(head, defect)
    with pytest.raises(MeasurementError, match=r"on the device is wrong: .* of torch .*'s"):
        compare_outputs(
            torch_judge(wrong, batch_size=1).outputs(images),
            judge.outputs(images),
            judge=judge.name,
        )


@pytest.mark.parametrize("head", HEADS)
def test_outputs_of_another_scale_or_none_are_refused(head: str) -> None:
    judge = torch_judge(network(head), batch_size=1)
    images = check_images(SHAPE, "float32", seed=0)
    (expected,) = judge.outputs(images)
    mean = np.broadcast_to(expected.mean(axis=0), expected.shape)
    for wrong in (expected * np.float32(1.01), mean, np.zeros_like(expected), expected[::-1]):
        with pytest.raises(MeasurementError, match="on the device is wrong"):
            compare_outputs([wrong], [expected], judge=judge.name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_network_summed_in_another_order_passes(head: str, seed: int) -> None:
    right = network(head)
    judge = torch_judge(right, batch_size=1)
    images = check_images(SHAPE, "float32", seed=seed)
    folded = torch_judge(fold_batch_norm(right), batch_size=1)
    found = folded.outputs(images)
    agreement = compare_outputs(found, judge.outputs(images), judge=judge.name)
    assert agreement.difference < 1e-4
    assert (agreement.judge, agreement.images) == (f"torch {torch.__version__}", CHECKED_IMAGES)


def test_outputs_that_do_not_depend_on_the_image_prove_nothing() -> None:
    outputs = np.tile(np.linspace(1, 2, 10, dtype=np.float32), (3, 1))
    nearly = outputs + np.float32(1e-4) * np.arange(3, dtype=np.float32)[:, None]
    for same in (outputs, nearly, np.zeros_like(outputs)):
        with pytest.raises(MeasurementError, match="must depend on the image"):
            compare_outputs([same], [same], judge="torch")


def test_of_several_outputs_each_must_be_right_and_one_depend_on_the_image() -> None:
    rng = np.random.default_rng(0)
    moving = rng.standard_normal((3, 4, 5), dtype=np.float32)
    still = np.ones((3, 2), np.float32)
    assert compare_outputs([still, moving], [still, moving], judge="torch").difference == 0
    with pytest.raises(MeasurementError, match="output 1 of 2 on the device is wrong"):
        compare_outputs([still * 1.1, moving], [still, moving], judge="torch")
    with pytest.raises(MeasurementError, match="must be of shapes"):
        compare_outputs([moving], [still, moving], judge="torch")
    with pytest.raises(MeasurementError, match="must be of shapes"):
        compare_outputs([moving, still], [still, moving], judge="torch")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_agrees_with_nothing(value: float) -> None:
    right = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    odd = right.copy()
    odd[1, 2] = value
    with pytest.raises(MeasurementError, match="outputs on the device must be finite, and 1 of 12"):
        compare_outputs([odd], [right], judge="torch")
    with pytest.raises(MeasurementError, match="those of torch must be finite"):
        compare_outputs([right], [odd], judge="torch")


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_images_come_in_whole_batches_and_differ(batch: int) -> None:
    images = check_images((batch, 3, 8, 8), "float32", seed=1)
    assert len(images) % batch == 0
    assert len(images) >= CHECKED_IMAGES
    assert images.dtype == np.float32
    assert len(np.unique(images.std(axis=(1, 2, 3)))) == len(images)
    np.testing.assert_array_equal(images, check_images((batch, 3, 8, 8), "float32", seed=1))
    assert (images != check_images((batch, 3, 8, 8), "float32", seed=2)).any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("defect", [one for one in DEFECTS if one is not _scaled])
def test_in_half_precision_a_wrong_network_is_refused_too(
    head: str, defect: Callable[[nn.Sequential], None]
) -> None:
    wrong, judge, images = _compiled_wrong(head, defect)
    with pytest.raises(MeasurementError, match=r"on the device is wrong: .* of torch .*'s"):
        compare_outputs(
            _in_half(wrong, images), judge.outputs(images), judge=judge.name, precision=HALF
        )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(5))
def test_torchs_own_half_precision_passes_as_such_alone(head: str, seed: int) -> None:
    judge = torch_judge(network(head), batch_size=1)
    images = check_images(SHAPE, "float32", seed=seed)
    found, expected = _in_half(network(head), images), judge.outputs(images)
    agreement = compare_outputs(found, expected, judge=judge.name, precision=HALF)
    assert 1e-4 < agreement.difference < TOLERANCES[HALF].difference / 8
    with pytest.raises(MeasurementError, match="on the device is wrong"):
        compare_outputs(found, expected, judge=judge.name)


@pytest.mark.parametrize("precision", TOLERANCES, ids=str)
def test_the_tolerance_lets_no_constant_pass_whatever_the_spread(
    precision: Precision,
) -> None:
    """What may be added for rounding must not reach the outputs' spread where that is just large enough."""
    tolerance = TOLERANCES[precision]
    moving = np.linspace(-0.5, 0.5, 3)[:, None] * np.ones((3, 4))
    expected = 1 + moving * tolerance.least_spread * 1.1
    mean = np.broadcast_to(expected.mean(axis=0), expected.shape)
    with pytest.raises(MeasurementError, match="on the device is wrong"):
        compare_outputs([mean], [expected], judge="torch", precision=precision)
    assert (
        compare_outputs([expected], [expected], judge="torch", precision=precision).difference == 0
    )


def _in_half(net: nn.Module, images: np.ndarray) -> tuple[np.ndarray, ...]:
    half = fold_batch_norm(net).half()
    with torch.no_grad():
        outputs = [half(torch.from_numpy(image[None]).half()) for image in images]
    return (torch.cat(outputs).float().numpy(),)


def test_bytes_use_their_range() -> None:
    images = check_images((1, 8, 8, 3), "uint8", seed=1)
    assert images.dtype == np.uint8
    assert images.min() < 60
    assert images.max() > 190
