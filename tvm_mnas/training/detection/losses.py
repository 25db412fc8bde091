"""What a detector is trained by: how far its boxes are from objects, and its scores from their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tvm_mnas.models.detection.decoding import Scoring
from tvm_mnas.training.detection.targets import BACKGROUND


class ClassLoss(Protocol):
    """A loss of class predictions."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, summed over its anchors.

        `logits` are (N,A,1+C), the background first, `labels` (N,A): 0 background, -1 ignored, else one more than a
        class.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HardNegativeLoss:
    """Cross-entropy of all objects and, of the background, of those anchors that are furthest from it.

    In each image so many as `negatives_per_object` objects, at least `least_negatives` (Liu et al. 2016, section 2.2,
    "Hard negative mining").
    """

    scoring: Scoring = Scoring.SOFTMAX
    negatives_per_object: int = 3
    least_negatives: int = 1

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, as `ClassLoss` says."""
        each = self._each(logits, labels.clamp(min=0))
        objects = labels > BACKGROUND
        background = labels == BACKGROUND
        hardness = torch.where(background, each.detach(), -torch.inf)
        place = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        wanted = self.negatives_per_object * objects.sum(1, keepdim=True)
        negatives = background & (place < wanted.clamp(min=self.least_negatives))
        return each[objects | negatives].sum()

    def _each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,A) of each anchor."""
        if self.scoring is Scoring.SIGMOID:
            wanted = functional.one_hot(labels, logits.shape[-1])[..., 1:].to(logits.dtype)
            return functional.binary_cross_entropy_with_logits(
                logits[..., 1:], wanted, reduction="none"
            ).sum(-1)
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        ).reshape(labels.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class FocalLoss:
    """Binary cross-entropy of each class, in which what is predicted well hardly counts (Lin et al. 2017, equation 5).

    An object's own class weighs `alpha`, all else 1 - `alpha`; the background has no logit of its own to learn.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, as `ClassLoss` says."""
        own = logits[..., 1:]
        wanted = functional.one_hot(labels.clamp(min=0), logits.shape[-1])[..., 1:].to(own.dtype)
        each = functional.binary_cross_entropy_with_logits(own, wanted, reduction="none")
        right = torch.exp(-each)
        weight = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        counted = (labels >= BACKGROUND).unsqueeze(-1)
        return (weight * (1 - right) ** self.gamma * each * counted).sum()


def box_loss(offsets: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    """Return the smooth L1 distance of predicted `offsets` (N,A,4) from those `wanted`, summed.

    Only anchors that have an object count (Liu et al. 2016, equation 2).
    """
    objects = labels > BACKGROUND
    return functional.smooth_l1_loss(offsets[objects], wanted[objects], reduction="sum")
