"""The search algorithms behind one door: the paper's, those it is compared with, and Optuna's own.

An algorithm of one's own is a function like those below; `--algorithm package.module:function` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import ALGORITHMS
from tvm_mnas.search.algorithms.evolution import RegularizedEvolutionSampler, UniformSampler
from tvm_mnas.search.algorithms.sampler import PPOSampler
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision

if TYPE_CHECKING:
    from tvm_mnas.search.algorithms.ppo import PPOSettings


MIN_POPULATION = 8
MAX_POPULATION = 64


@dataclass(frozen=True, kw_only=True)
class AlgorithmRequest:
    """What an algorithm is to sample, and from what.

    `reward` is `None` for a study whose one objective is the reward; otherwise the study has two, accuracy to
    maximize and latency in milliseconds to minimize. `batch_size` candidates are asked for at a time, `lag` batches
    ahead of what was learned; `population` is what a population-based algorithm should keep, `checkpoint` a file that
    a learning one may write. `settings` is PPO's.
    """

    decisions: Sequence[Decision]
    reward: Reward | None
    seed: int
    batch_size: int = 16
    lag: int = 0
    population: int = 64
    checkpoint: Path | None = None
    settings: PPOSettings | None = None


def population_for(trials: int) -> int:
    """Return the population of a search of so many trials: until it is full, evolution is random search."""
    return max(MIN_POPULATION, min(MAX_POPULATION, trials // 4))


class Algorithm(Protocol):
    """Makes the Optuna sampler of a search; each decision is a categorical parameter of its name."""

    def __call__(self, request: AlgorithmRequest) -> BaseSampler:
        """Return a new sampler; one that resumes exactly is a function of study and seed alone."""
        ...


def make_sampler(name: str, request: AlgorithmRequest) -> BaseSampler:
    """Return the sampler of the algorithm called `name`, one that ships or one's own.

    Raises:
        ConfigError: if there is none, or what it makes is no Optuna sampler.
    """
    algorithm: Algorithm = ALGORITHMS.load(name)
    sampler: object = algorithm(request)
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(
            f"the algorithm {name!r} returns an Optuna sampler, and it returned {type(sampler).__name__}"
        )
    return sampler


def make_ppo(request: AlgorithmRequest) -> BaseSampler:
    """Return the paper's, an LSTM controller trained by PPO, with proposals that were not met before."""
    return PPOSampler(
        request.decisions,
        reward=request.reward,
        seed=request.seed,
        batch_size=request.batch_size,
        lag=request.lag,
        settings=request.settings,
        checkpoint=request.checkpoint,
    )


def make_ppo_paper(request: AlgorithmRequest) -> BaseSampler:
    """Return the paper's as it stands: what the controller proposes is taken, whether or not it was met before."""
    from tvm_mnas.search.algorithms.ppo import PPOSettings

    settings = request.settings or PPOSettings()
    return make_ppo(replace(request, settings=replace(settings, redraws=0)))


def make_evolution(request: AlgorithmRequest) -> BaseSampler:
    """Return regularized evolution, its tournament a quarter of the population."""
    return RegularizedEvolutionSampler(
        request.decisions,
        reward=request.reward,
        seed=request.seed,
        batch_size=request.batch_size,
        lag=request.lag,
        population=request.population,
        tournament=max(1, request.population // 4),
    )


def make_random(request: AlgorithmRequest) -> BaseSampler:
    """Return random search."""
    return UniformSampler(request.decisions, reward=request.reward, seed=request.seed)


def make_tpe(request: AlgorithmRequest) -> BaseSampler:
    """Return Optuna's TPE, which looks at the study's objectives itself."""
    return TPESampler(seed=request.seed)


def make_nsga2(request: AlgorithmRequest) -> BaseSampler:
    """Return Optuna's NSGA-II, which looks at the study's objectives itself."""
    return NSGAIISampler(population_size=request.population, seed=request.seed)
