"""The training loop: one network, one recipe, on any device; short for a candidate of a search, long for its winner.

The paper trains each candidate for five ImageNet epochs and takes the accuracy on held-out training
images as the candidate's (section 5); a short recipe is the same idea at any scale, from seconds on one core
upwards. It is a proxy: it ranks candidates, roughly, and its accuracy is not what a full training
reaches.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tvm_mnas.errors import DataError, TrainingError
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.average import average_of
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import Batch, DataSplits, Split, batches_from, to_input
from tvm_mnas.training.optimizers import build_optimizer
from tvm_mnas.training.processes import SINGLE, ProcessGroup
from tvm_mnas.training.recipe import Recipe, TrainingPlan

OnStep = Callable[[int, int], None]
"""Called after each step with the steps done and the steps in all."""

LOSS_WINDOW = 20
"""The training loss reported is the mean over this many last steps."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network, in eval mode on the CPU, and its accuracy on the validation split."""

    network: nn.Module
    accuracy: Accuracy


@dataclass
class TrainingState:
    """All that changes in a training: weights, optimizer, moving average, loss scaling, steps done, recent losses."""

    network: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    step: int = 0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSS_WINDOW))

    @property
    def best_network(self) -> nn.Module:
        """The network to be judged: the average, if there is one."""
        return self.network if self.average is None else self.average.module


OnState = Callable[[TrainingState], None]
"""Called after each step; a checkpoint is written here."""


def start_training(
    candidate: Candidate,
    plan: TrainingPlan,
    *,
    seed: int,
    device: str = "cpu",
    group: ProcessGroup = SINGLE,
) -> TrainingState:
    """Return the state before the first step; weights follow from `seed`."""
    recipe = plan.recipe
    network = build_candidate(
        candidate,
        dropout=recipe.dropout,
        seed=seed,
        # Rounded, since 1 - 0.9 is not 0.1.
        batch_norm_momentum=round(1 - recipe.batch_norm_decay, 12),
        zero_init_residual=recipe.zero_init_residual,
    )
    network = group.synchronized(network)
    # torch's stubs do not know that a module's `to` takes a memory format.
    network.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainingState(
        network=network,
        optimizer=build_optimizer(network, recipe),
        average=average_of(network, recipe.ema_decay) if recipe.ema_decay else None,
        scaler=torch.amp.GradScaler(torch.device(device).type, enabled=recipe.precision == "fp16"),
    )


def run_training(
    state: TrainingState,
    plan: TrainingPlan,
    splits: DataSplits,
    *,
    seed: int,
    device: str = "cpu",
    group: ProcessGroup = SINGLE,
    on_state: OnState = lambda state: None,
) -> None:
    """Take `state` from its step to the last of `plan`.

    Order of images, augmentation and dropout follow from `seed` and the step; on the CPU with one thread the same seed
    gives the same weights, wherever `state` came from. Dropout draws from torch's global generator, which is the
    caller's again afterwards.

    Raises:
        TrainingError: the loss became infinite or not a number, with the step.
        DataError: damaged data.
    """
    recipe = plan.recipe
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    forward: Callable[[Tensor], Tensor] = group.parallel(state.network, device)
    if recipe.compile_network:
        forward = torch.compile(forward)
    batches = batches_from(
        splits.train, state.step, batch_size=recipe.batch_size, steps=plan.steps, seed=seed
    )
    state.network.train()
    with torch.random.fork_rng():
        for batch in batches:
            torch.manual_seed(_step_seed(seed, state.step, group.rank))
            _take_step(state, plan, batch, splits.normalization, forward, loss_of, device, group)
            on_state(state)


def _take_step(
    state: TrainingState,
    plan: TrainingPlan,
    batch: Batch,
    normalization: Normalization,
    forward: Callable[[Tensor], Tensor],
    loss_of: nn.CrossEntropyLoss,
    device: str,
    group: ProcessGroup,
) -> None:
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = plan.rate_at(state.step)
    images, labels = _place(group.share(batch), normalization, device)
    with _precision(plan.recipe.precision, device):
        loss = loss_of(forward(images), labels)
    # Gradients are averaged over processes; so is the loss that is told.
    told = group.mean(loss)
    state.losses.append(told)
    if not math.isfinite(told):
        raise TrainingError(
            f"the training diverged: the loss is {told} at step {state.step + 1} "
            f"of {plan.steps} (learning rate {plan.peak_rate:g})"
        )
    state.optimizer.zero_grad(set_to_none=True)
    scaled: Any = state.scaler.scale(loss)
    scaled.backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.network)
    state.step += 1


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for what is drawn in one step of one process, so that a resumed training draws the same."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


def train_candidate(
    candidate: Candidate,
    splits: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    on_step: OnStep | None = None,
    device: str = "cpu",
) -> TrainedNetwork:
    """Train the network of `candidate` by `recipe` and return it with its validation accuracy.

    Weights, order of images, augmentation and dropout follow from `seed`. The number of threads is the caller's
    affair. The test split is not touched.

    Raises:
        TrainingError: the loss became infinite or not a number, with the step.
        DataError: the data does not fit the candidate.
    """
    check_fit(candidate, splits)
    plan = recipe.plan(len(splits.train))
    state = start_training(candidate, plan, seed=seed, device=device)
    started = time.perf_counter()
    run_training(
        state,
        plan,
        splits,
        seed=seed,
        device=device,
        on_state=lambda now: on_step(now.step, plan.steps) if on_step else None,
    )
    duration_s = time.perf_counter() - started
    network = state.best_network
    score = evaluate(network, splits.validation, splits.normalization)
    accuracy = Accuracy(
        top1=score.top1,
        samples=score.samples,
        steps=plan.steps,
        train_loss=sum(state.losses) / len(state.losses),
        duration_s=duration_s,
        seed=seed,
        split="validation",
    )
    return TrainedNetwork(to_plain(network), accuracy)


def to_plain(network: nn.Module) -> nn.Module:
    """Return `network` in eval mode on the CPU, with plain strides: what reads it needs not know how it was trained."""
    network.to(device=torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network.eval()


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 and top-5 accuracy, 0..1, on so many images."""

    top1: float
    top5: float
    samples: int


def evaluate(
    network: nn.Module, split: Split, normalization: Normalization, *, batch_size: int = 64
) -> Score:
    """Return the accuracy of `network` on `split`, in eval mode (which it is left in).

    Raises:
        TrainingError: the network's outputs are infinite or not numbers.
    """
    network.eval()
    device = str(next(network.parameters()).device)
    # Counted on the device: to ask for each batch's number would wait for it.
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    seen = 0
    with torch.inference_mode():
        for batch in split.eval_batches(batch_size=batch_size):
            images, labels = _place(batch, normalization, device)
            logits = network(images)
            finite &= torch.isfinite(logits).all()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            hits += torch.stack([(logits.argmax(dim=1) == labels).sum(), best.any(dim=1).sum()])
            seen += len(labels)
    if not bool(finite):
        raise TrainingError("the trained network's outputs are not finite numbers")
    top1, top5 = (int(count) / seen for count in hits)
    return Score(top1, top5, seen)


def check_fit(candidate: Candidate, splits: DataSplits) -> None:
    """Look whether `candidate` can be trained on `splits`.

    Raises:
        DataError: channels, input size or classes differ.
    """
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


def _precision(precision: str, device: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision])


def _place(batch: Batch, normalization: Normalization, device: str) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return to_input(images, normalization, device), labels.to(device, non_blocking=True)
