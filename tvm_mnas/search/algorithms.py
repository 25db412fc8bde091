"""The search algorithms by name: the paper's, those it is compared with, and Optuna's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from tvm_mnas.config import ALGORITHMS
from tvm_mnas.errors import ConfigError
from tvm_mnas.search.evolution import EvolutionSampler, UniformSampler
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.sampler import PPOSampler
from tvm_mnas.space.space import Decision

if TYPE_CHECKING:
    from tvm_mnas.search.ppo import PPOSettings


def make_sampler(
    name: str,
    decisions: Sequence[Decision],
    *,
    reward: Reward | None,
    seed: int,
    batch_size: int = 16,
    population: int = 64,
    settings: PPOSettings | None = None,
    checkpoint: Path | None = None,
) -> BaseSampler:
    """Return the sampler called `name`: one of `tvm_mnas.config.ALGORITHMS`.

    `reward` is `None` for a study whose one objective is the reward. `population` is evolution's
    (its tournament is a quarter of it) and NSGA-II's; `settings` and `checkpoint` are PPO's. TPE
    and NSGA-II look at the study's objectives themselves and take no reward.

    Raises:
        ConfigError: if no algorithm has this name.
    """
    if name == "ppo":
        return PPOSampler(
            decisions,
            reward=reward,
            seed=seed,
            batch_size=batch_size,
            settings=settings,
            checkpoint=checkpoint,
        )
    if name == "evolution":
        return EvolutionSampler(
            decisions,
            reward=reward,
            seed=seed,
            batch_size=batch_size,
            population=population,
            tournament=max(1, population // 4),
        )
    if name == "random":
        return UniformSampler(decisions, reward=reward, seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "nsga2":
        return NSGAIISampler(population_size=population, seed=seed)
    raise ConfigError(f"an algorithm is one of {', '.join(ALGORITHMS)}, not {name!r}")
