"""The short training that estimates a candidate's accuracy.

The paper trains each candidate for five ImageNet epochs and takes the accuracy on held-out training
images as the candidate's (section 5); this is the same idea at any scale, from seconds on one core
upwards. It is a proxy: it ranks candidates, roughly, and its accuracy is not what a full training
reaches.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_mnas.errors import ConfigError, DataError, TrainingError
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import Batch, DataSplits, Split, to_input

OnStep = Callable[[int, int], None]
"""Called after each step with the steps done and the steps in all."""

LOSS_WINDOW = 20
"""The training loss reported is the mean over this many last steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRecipe:
    """How candidates are trained: AdamW, the rate warmed up, then lowered along a cosine to zero.

    The defaults are for images in memory and seconds of training. `batch_norm_momentum` is torch's,
    far above the published 0.01 since running statistics must settle within few steps.
    """

    steps: int = 160
    batch_size: int = 64
    learning_rate: float = 1e-2
    warmup_steps: int = 10
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    dropout: float = 0.0
    batch_norm_momentum: float = 0.1
    zero_init_residual: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "batch_norm_momentum"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is not negative, but {getattr(self, name)} is")
        for name in ("label_smoothing", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in 0..1, not {getattr(self, name)}")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network, in eval mode on the CPU, and its accuracy on the validation split."""

    network: nn.Module
    accuracy: Accuracy


def train_proxy(
    candidate: Candidate,
    splits: DataSplits,
    recipe: ProxyRecipe,
    *,
    seed: int,
    on_step: OnStep | None = None,
    device: str = "cpu",
) -> TrainedNetwork:
    """Train the network of `candidate` by `recipe` and return it with its validation accuracy.

    Weights, order of images, augmentation and dropout follow from `seed`; on the CPU with one
    thread the same seed gives the same weights. The number of threads is the caller's affair. The
    test split is not touched.

    Raises:
        TrainingError: the loss became infinite or not a number, with the step.
        DataError: the data does not fit the candidate.
    """
    _check_fit(candidate, splits)
    network = build_candidate(
        candidate,
        dropout=recipe.dropout,
        seed=seed,
        batch_norm_momentum=recipe.batch_norm_momentum,
        zero_init_residual=recipe.zero_init_residual,
    )
    # torch's stubs do not know that a module's `to` takes a memory format.
    network.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        parameter_groups(network, recipe.weight_decay), lr=0.0, fused=True
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    recent: deque[float] = deque(maxlen=LOSS_WINDOW)
    started = time.perf_counter()
    batches = splits.train.train_batches(
        batch_size=recipe.batch_size, steps=recipe.steps, seed=seed
    )
    # Dropout draws from torch's global generator, which is the caller's again afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(step)
            images, labels = _place(batch, splits.normalization, device)
            loss = loss_of(network(images), labels)
            recent.append(float(loss.detach()))
            if not math.isfinite(recent[-1]):
                raise TrainingError(
                    f"the training diverged: the loss is {recent[-1]} at step {step + 1} "
                    f"of {recipe.steps} (learning rate {recipe.learning_rate:g})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if on_step is not None:
                on_step(step + 1, recipe.steps)
    duration_s = time.perf_counter() - started
    top1 = evaluate(network, splits.validation, splits.normalization)
    accuracy = Accuracy(
        top1=top1,
        samples=len(splits.validation),
        steps=recipe.steps,
        train_loss=sum(recent) / len(recent),
        duration_s=duration_s,
        seed=seed,
        split="validation",
    )
    # Plain strides again: what reads the weights next need not know how they were trained.
    network.to(device=torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return TrainedNetwork(network.eval(), accuracy)


def evaluate(
    network: nn.Module, split: Split, normalization: Normalization, *, batch_size: int = 64
) -> float:
    """Return the top-1 accuracy of `network` on `split`, 0..1, in eval mode (which it is left in).

    Raises:
        TrainingError: the network's outputs are infinite or not numbers.
    """
    network.eval()
    device = str(next(network.parameters()).device)
    correct = 0
    with torch.inference_mode():
        for batch in split.eval_batches(batch_size=batch_size):
            images, labels = _place(batch, normalization, device)
            logits = network(images)
            if not bool(torch.isfinite(logits).all()):
                raise TrainingError("the trained network's outputs are not finite numbers")
            correct += int((logits.argmax(dim=1) == labels).sum())
    return correct / len(split)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return optimizer groups in which weights decay, but biases and batch norms do not."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _place(batch: Batch, normalization: Normalization, device: str) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return to_input(images, normalization, device), labels.to(device, non_blocking=True)


def _check_fit(candidate: Candidate, splits: DataSplits) -> None:
    channels = len(splits.normalization.mean)
    if candidate.input_channels != channels:
        raise DataError(
            f"{splits.name} has {channels} channels, but the network's input has "
            f"{candidate.input_channels}; use a space with `channels = {channels}`"
        )
    if candidate.input_size != splits.input_size:
        raise DataError(
            f"the data was loaded for inputs of {splits.input_size}, but the network's "
            f"input size is {candidate.input_size}"
        )
    if candidate.classes < splits.classes:
        raise DataError(
            f"{splits.name} has {splits.classes} classes, but the network tells only "
            f"{candidate.classes} apart; use a space with `classes = {splits.classes}`"
        )
