"""Proximal policy optimization of the controller, and its state on disk.

One update takes a batch of sequences with their rewards and maximizes, for a few epochs over the
whole batch,

    mean over tokens of  min(r A, clip(r, 1 - eps, 1 + eps) A)  +  entropy_weight * H

(Schulman et al. 2017, equations 7 and 9), where r is the probability of the token under the current
weights over that under the weights that it was sampled with, A the sequence's advantage and H the entropy
of the softmax the token came from. The reward of a sequence belongs to each of its tokens. Sequences of
batch k were sampled after update k - `lag`, so that many policies of before are kept.

State is saved as safetensors, in one atomic step, and read back bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.files import atomic_write
from tvm_mnas.search.algorithms.controller import Controller, one_thread

_ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")
_ROUNDING = 1e-7
_USUAL_BATCH = 16
_LEARNING_RATE = 0.007


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOSettings:
    """How the controller learns, and how it is sampled; `benchmarks/search_algorithms.py` measures the defaults.

    `baseline_decay` is the weight of the past, per update, in the running mean and variance of the
    rewards. A sequence that was met before is drawn again up to `redraws` times, from a softmax whose logits are
    divided by 1, `heat`, `heat`^2, ...; with 0 it stays, as in the paper.
    """

    learning_rate: float = _LEARNING_RATE
    epochs: int = 5
    clip: float = 0.2
    entropy_weight: float = 0.08
    baseline_decay: float = 0.5
    gradient_norm: float = 1.0
    hidden_size: int = 64
    redraws: int = 7
    heat: float = 1.3

    @classmethod
    def for_batches(cls, batch_size: int) -> PPOSettings:
        """Return the defaults for batches of so many trials: the rate, which is for 16, goes with their square root.

        The mean of a smaller batch is noisier (by that root), and there are more updates in as many trials.
        """
        rate = _LEARNING_RATE * math.sqrt(batch_size / _USUAL_BATCH)
        return cls(learning_rate=rate)

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("learning_rate", self.learning_rate > 0.0, "positive"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("clip", 0.0 < self.clip < 1.0, "between 0 and 1"),
            ("entropy_weight", self.entropy_weight >= 0.0, "at least 0"),
            ("baseline_decay", 0.0 <= self.baseline_decay < 1.0, "in 0..1, below 1"),
            ("gradient_norm", self.gradient_norm > 0.0, "positive"),
            ("hidden_size", self.hidden_size >= 1, "at least 1"),
            ("redraws", self.redraws >= 0, "at least 0"),
            ("heat", self.heat >= 1.0, "at least 1"),
        ):
            if not holds:
                raise ConfigError(f"PPO's {name} must be {rule}, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did: mean reward, entropy per decision (nats), and how far the policy moved.

    `clipped` is the share of tokens whose ratio ended outside the clip; `kl` the mean of old minus
    new log-probability, an estimate of the divergence per token, in nats.
    """

    samples: int
    mean_reward: float
    baseline: float
    entropy: float
    kl: float
    clipped: float


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return the mean of min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al. 2017, equation 7).

    `ratio` is (B, D); `advantage` is (B, 1) or (B, D).
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


class PPO:
    """The controller under training: weights, Adam's moments, baseline, number of updates.

    A batch is learned `lag` updates after the policy that it was sampled with.
    """

    def __init__(
        self, choices: Sequence[int], *, settings: PPOSettings, seed: int, lag: int = 0
    ) -> None:
        self.settings = settings
        self.lag = lag
        self.controller = Controller(choices, hidden_size=settings.hidden_size, seed=seed)
        # The weights before the last updates, the newest first.
        self._earlier: list[dict[str, Tensor]] = []
        self._optimizer = torch.optim.Adam(
            self.controller.parameters(), lr=settings.learning_rate, foreach=False
        )
        # Weight, mean and mean square of the rewards so far, each decaying: corrected like Adam's
        # moments.
        self._moments = torch.zeros(3, dtype=torch.float64)
        self.updates_done = 0

    def policy(self, updates: int) -> Controller:
        """Return the controller as it was after so many updates: the newest, or one of the `lag` before it."""
        age = self.updates_done - updates
        if age == 0:
            return self.controller
        if not 0 < age <= len(self._earlier):
            raise ValueError(
                f"policies of the last {self.lag} updates are kept, not that of {age} before"
            )
        earlier = Controller(self.controller.choices, hidden_size=self.settings.hidden_size, seed=0)
        earlier.load_state_dict(self._earlier[age - 1])
        return earlier

    def update(
        self, sequences: Sequence[Sequence[int]], rewards: Sequence[float]
    ) -> UpdateReport | None:
        """Improve the controller on a batch of token sequences and their rewards, in this order.

        An empty batch (every candidate failed) counts as an update and returns `None`.
        """
        sampled_with = self.policy(max(0, self.updates_done - self.lag))
        if self.lag:
            before = {
                name: tensor.detach().clone()
                for name, tensor in self.controller.state_dict().items()
            }
            self._earlier = [before, *self._earlier][: self.lag]
        self.updates_done += 1
        if not sequences:
            return None
        with one_thread():
            return self._update(
                torch.tensor([list(sequence) for sequence in sequences], dtype=torch.long),
                torch.tensor(rewards, dtype=torch.float64),
                sampled_with,
            )

    def _update(self, tokens: Tensor, rewards: Tensor, sampled_with: Controller) -> UpdateReport:
        settings = self.settings
        mean, deviation = self._baseline(rewards)
        advantage = ((rewards - mean) / deviation)[:, None]
        with torch.no_grad():
            old, _ = sampled_with.log_prob_and_entropy(tokens)
        for _ in range(settings.epochs):
            log_prob, entropy = self.controller.log_prob_and_entropy(tokens)
            objective = clipped_objective((log_prob - old).exp(), advantage, settings.clip)
            loss = -(objective + settings.entropy_weight * entropy.mean())
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(
                self.controller.parameters(), settings.gradient_norm, foreach=False
            )
            self._optimizer.step()
        with torch.no_grad():
            log_prob, entropy = self.controller.log_prob_and_entropy(tokens)
        ratio = (log_prob - old).exp()
        return UpdateReport(
            samples=len(rewards),
            mean_reward=float(rewards.mean()),
            baseline=mean,
            entropy=float(entropy.mean()),
            kl=float((old - log_prob).mean()),
            clipped=float(((ratio - 1.0).abs() > settings.clip).double().mean()),
        )

    def _baseline(self, rewards: Tensor) -> tuple[float, float]:
        """Take the batch into the running moments; return their mean and standard deviation."""
        decay = self.settings.baseline_decay
        seen = torch.stack([torch.ones_like(rewards), rewards, rewards.square()]).mean(dim=1)
        self._moments = decay * self._moments + (1.0 - decay) * seen
        weight, first, second = self._moments.tolist()
        mean = first / weight
        deviation = math.sqrt(max(0.0, second / weight - mean * mean))
        # Rewards that are all equal teach nothing, nor may the rounding errors of their variance.
        return mean, deviation if deviation > _ROUNDING * abs(mean) else math.inf

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next update depends on, by name."""
        tensors = {"moments": self._moments}
        for age, weights in enumerate(self._earlier, start=1):
            tensors |= {f"earlier.{age}.{name}": tensor for name, tensor in weights.items()}
        for name, parameter in self.controller.named_parameters():
            tensors[f"controller.{name}"] = parameter.detach()
            state = self._optimizer.state.get(parameter)
            if state:
                for key in _ADAM_KEYS:
                    tensors[f"adam.{name}.{key}"] = state[key]
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor], *, updates_done: int) -> None:
        """Take the state that :meth:`tensors` returned.

        Raises:
            RunError: if a tensor is missing, unknown, or of another shape or type.
        """
        parameters = dict(self.controller.named_parameters())
        expected = {"moments": self._moments}
        expected |= {f"controller.{name}": tensor.detach() for name, tensor in parameters.items()}
        if any(name.startswith("adam.") for name in tensors):
            for name, tensor in parameters.items():
                expected[f"adam.{name}.step"] = torch.zeros((), dtype=torch.float32)
                expected[f"adam.{name}.exp_avg"] = tensor.detach()
                expected[f"adam.{name}.exp_avg_sq"] = tensor.detach()
        kept = range(1, min(self.lag, updates_done) + 1)
        for age in kept:
            expected |= {
                f"earlier.{age}.{name}": tensor.detach() for name, tensor in parameters.items()
            }
        if _kinds(expected) != _kinds(tensors):
            raise RunError("the controller's checkpoint has the tensors of another search")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"controller.{name}"])
        self._optimizer.state.clear()
        for name, parameter in parameters.items():
            if f"adam.{name}.step" in tensors:
                self._optimizer.state[parameter] = {
                    key: tensors[f"adam.{name}.{key}"].clone() for key in _ADAM_KEYS
                }
        self._moments = tensors["moments"].clone()
        self._earlier = [
            {name: tensors[f"earlier.{age}.{name}"].clone() for name in parameters} for age in kept
        ]
        self.updates_done = updates_done

    def save(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Write the state and `metadata` to `path`, wholly or, whatever happens, not at all."""
        described = {**metadata, "updates_done": json.dumps(self.updates_done)}
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        with atomic_write(path) as part:
            save_file(tensors, part, metadata=described)

    def load(self, path: Path) -> None:
        """Take the state that :meth:`save` wrote.

        Raises:
            RunError: if the file is missing, torn, or of a controller of another shape.
        """
        metadata = read_metadata(path)
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            updates_done = int(metadata["updates_done"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunError(f"{path} is not a controller's checkpoint: {error}") from error
        self.load_tensors(tensors, updates_done=updates_done)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a checkpoint, without its tensors.

    Raises:
        RunError: if the file is missing or torn.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is not a controller's checkpoint: {error}") from error


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
