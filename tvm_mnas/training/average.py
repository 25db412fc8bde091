"""The moving average of a network's weights and statistics, by torch's AveragedModel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """Return a moving average that begins at `network`; `update_parameters(network)` moves it.

    After n updates the old average counts `min(decay, (1 + n) / (10 + n))`, as in TensorFlow's
    ExponentialMovingAverage with `num_updates`: a short training is not stuck at its first weights. Running statistics
    of batch norms are averaged like weights.
    """

    def blend(averages: Any, currents: Any, updates: Any) -> None:
        # Called for each kind of tensors: counters are not averaged.
        if not averages[0].is_floating_point():
            return
        done = int(updates)
        kept = min(decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(averages, currents, 1 - kept)

    average = AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
    # At 0 the first update would copy the weights; at 1 it counts as TensorFlow's does after the first step.
    counted(average).fill_(1)
    return average


def counted(average: AveragedModel) -> Tensor:
    """Return the n of an average, int64 (): 1 before its first update."""
    assert isinstance(average.n_averaged, Tensor)
    return average.n_averaged
