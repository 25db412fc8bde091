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

from tvm_mnas.errors import TrainingError
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.average import average_of
from tvm_mnas.training.data.images import Normalization
from tvm_mnas.training.data.splits import Batch, DataSplits, batches_from
from tvm_mnas.training.optimizers import build_optimizer
from tvm_mnas.training.processes import SINGLE, ProcessGroup
from tvm_mnas.training.recipe import Recipe, TrainingPlan
from tvm_mnas.training.task import LossOf, Task, place
from tvm_mnas.training.tasks import task_of

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
    task: Task,
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
    loss_of = task.loss(state.network, recipe, group)
    forward: Callable[[Tensor], Any] = group.parallel(state.network, device)
    if recipe.compile_network:
        forward = torch.compile(forward)
    batches = batches_from(
        task.train_split(splits.train, recipe),
        state.step,
        batch_size=recipe.batch_size,
        steps=plan.steps,
        seed=seed,
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
    forward: Callable[[Tensor], Any],
    loss_of: LossOf,
    device: str,
    group: ProcessGroup,
) -> None:
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = plan.rate_at(state.step)
    images, labels = place(group.share(batch), normalization, device)
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
    if plan.recipe.gradient_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.network.parameters(), plan.recipe.gradient_norm)
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
    task = task_of(candidate)
    task.check_fit(candidate, splits)
    plan = recipe.plan(len(splits.train))
    state = start_training(candidate, plan, seed=seed, device=device)
    started = time.perf_counter()
    run_training(
        state,
        plan,
        splits,
        task=task,
        seed=seed,
        device=device,
        on_state=lambda now: on_step(now.step, plan.steps) if on_step else None,
    )
    duration_s = time.perf_counter() - started
    network = state.best_network
    score = task.evaluate(network, splits.validation, splits.normalization)
    accuracy = Accuracy(
        top1=score.value,
        samples=score.samples,
        steps=plan.steps,
        train_loss=sum(state.losses) / len(state.losses),
        duration_s=duration_s,
        seed=seed,
        split="validation",
        metric=score.metric,
    )
    return TrainedNetwork(to_plain(network), accuracy)


def to_plain(network: nn.Module) -> nn.Module:
    """Return `network` in eval mode on the CPU, with plain strides: what reads it needs not know how it was trained."""
    network.to(device=torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network.eval()


def _precision(precision: str, device: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision])
