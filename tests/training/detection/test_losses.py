"""Losses against sums over one anchor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tvm_mnas.models.detection.decoding import Scoring
from tvm_mnas.training.detection.losses import FocalLoss, HardNegativeLoss, box_loss

CLASSES = 3
LABELS = torch.tensor([[0, 2, -1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 3, 0, -1, 0, 0]])


def _logits() -> torch.Tensor:
    return torch.randn((3, 6, 1 + CLASSES), generator=torch.Generator().manual_seed(0))


def _entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


def _binary_entropy(logits: list[float], label: int) -> float:
    total = 0.0
    for kind, logit in enumerate(logits[1:], 1):
        chance = 1 / (1 + math.exp(-logit))
        total -= math.log(chance if kind == label else 1 - chance)
    return total


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize(
    ("scoring", "entropy"), [(Scoring.SOFTMAX, _entropy), (Scoring.SIGMOID, _binary_entropy)]
)
def test_hard_negatives_are_those_furthest_from_the_background(
    ratio: int, scoring: Scoring, entropy: Callable[[list[float], int], float]
) -> None:
    logits = _logits()
    expected = 0.0
    for image, labels in zip(logits.tolist(), LABELS.tolist(), strict=True):
        own = [entropy(one, label) for one, label in zip(image, labels, strict=True) if label > 0]
        negatives = sorted(
            (entropy(one, 0) for one, label in zip(image, labels, strict=True) if label == 0),
            reverse=True,
        )
        expected += sum(own) + sum(negatives[: max(ratio * len(own), 2)])
    loss = HardNegativeLoss(scoring=scoring, negatives_per_object=ratio, least_negatives=2)
    found = loss(logits, LABELS)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_is_its_formula() -> None:
    logits = _logits()
    expected = 0.0
    for image, labels in zip(logits.tolist(), LABELS.tolist(), strict=True):
        for one, label in zip(image, labels, strict=True):
            if label < 0:
                continue
            for kind, logit in enumerate(one[1:], 1):
                chance = 1 / (1 + math.exp(-logit))
                right, weight = (chance, 0.25) if kind == label else (1 - chance, 0.75)
                expected += -weight * (1 - right) ** 2 * math.log(right)
    assert FocalLoss()(logits, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_boxes_count_where_there_is_an_object() -> None:
    offsets = torch.zeros(3, 6, 4)
    wanted = torch.full((3, 6, 4), 100.0)
    wanted[0, 1] = torch.tensor([0.5, 0.0, 0.0, 2.0])
    wanted[2, 0] = 0.0
    wanted[2, 1] = 0.0
    expected = 0.5 * 0.5**2 + (2.0 - 0.5)
    assert box_loss(offsets, wanted, LABELS).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [HardNegativeLoss(), FocalLoss()])
def test_a_batch_without_an_object_has_a_finite_loss_and_gradient(
    loss: HardNegativeLoss | FocalLoss,
) -> None:
    logits = _logits().requires_grad_()
    labels = torch.zeros((3, 6), dtype=torch.long)
    total = loss(logits, labels) + box_loss(logits[..., :4], logits[..., :4].detach(), labels)
    total.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
