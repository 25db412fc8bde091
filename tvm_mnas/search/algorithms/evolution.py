"""The algorithms that the paper's is compared with: regularized evolution and random search.

Regularized evolution (Real et al. 2018, algorithm 1) and random search are samplers with the same
promise as `PPOSampler`: a trial is a function of the finished batches before it, the seed and its
number, so an interrupted study goes on exactly as it would have. Optuna's own TPE and NSGA-II
resume too, but draw from a generator that starts anew with the process: what they go on with is as
good, not the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.study import Study

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.algorithms.batches import BatchSampler, Observation
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision


class UniformSampler(BatchSampler):
    """Random search: every architecture is as likely as any other."""

    def __init__(
        self, decisions: Sequence[Decision], *, reward: Reward | None = None, seed: int
    ) -> None:
        super().__init__(decisions, reward=reward, seed=seed, batch_size=1)

    def history(self, study: Study) -> Sequence[Observation | None]:
        """Return nothing: what was found so far doesn't matter."""
        return []

    def propose(self, number: int, history: Sequence[Observation | None]) -> tuple[int, ...]:
        """Return uniformly drawn tokens."""
        rng = self.trial_rng(number)
        return tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)


class RegularizedEvolutionSampler(BatchSampler):
    """Regularized evolution: mutate the best of a few, let the oldest die (Real et al. 2018).

    The population is the newest `population` trials that have a reward; until there are so many,
    trials are random. Then a trial is the best of `tournament` members drawn without replacement,
    with one decision changed. With a `batch_size` of 1 this is algorithm 1 of the paper; a larger
    batch is mutated from one and the same population.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        reward: Reward | None = None,
        seed: int,
        batch_size: int = 16,
        lag: int = 0,
        population: int = 64,
        tournament: int = 16,
    ) -> None:
        super().__init__(decisions, reward=reward, seed=seed, batch_size=batch_size, lag=lag)
        if not 1 <= tournament <= population:
            raise ConfigError(
                f"a tournament must be between 1 and the population's {population}, not {tournament}"
            )
        self.population = population
        self.tournament = tournament

    def propose(self, number: int, history: Sequence[Observation | None]) -> tuple[int, ...]:
        """Return a mutated winner of a tournament, or random tokens while too few are alive."""
        rng = self.trial_rng(number)
        alive: list[Observation] = []
        for observation in reversed(history):
            if observation is not None and not observation.failed:
                alive.append(observation)
            if len(alive) == self.population:
                break
        else:
            return tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)
        parent = max(rng.sample(alive, self.tournament), key=lambda member: member.reward)
        tokens = list(parent.tokens)
        mutable = [at for at, decision in enumerate(self.decisions) if len(decision.choices) > 1]
        at = rng.choice(mutable)
        others = [token for token in range(len(self.decisions[at].choices)) if token != tokens[at]]
        tokens[at] = rng.choice(others)
        return tuple(tokens)
