"""Samplers whose every trial follows from the finished batches before it: the base of the paper's and of evolution.

sampler.py says what that promises.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision

_LOGGER = logging.getLogger(__name__)

_BATCHES_TO_WAIT = 4
"""A trial that is still not finished after this many further batches is worth a warning."""


def distributions_of(
    decisions: Sequence[Decision],
) -> dict[str, CategoricalDistribution]:
    """Return the Optuna parameters of `decisions`, in their order: what `Study.ask` takes."""
    return {
        decision.name: CategoricalDistribution(list(decision.choices)) for decision in decisions
    }


def tokens_of(trial: FrozenTrial, decisions: Sequence[Decision]) -> tuple[int, ...] | None:
    """Return the tokens of `trial`, or `None` where a parameter is missing or is no choice."""
    tokens: list[int] = []
    for decision in decisions:
        if trial.params.get(decision.name) not in decision.choices:
            return None
        tokens.append(decision.choices.index(trial.params[decision.name]))
    return tuple(tokens)


CANDIDATE_FAULT = "candidate_fault"
"""The user attribute, `True`, of a failed trial whose candidate is to blame."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a finished trial taught: its reward or, if the candidate `failed`, the worst that there is evidence for."""

    tokens: tuple[int, ...]
    reward: float
    failed: bool = False


class BatchSampler(BaseSampler):
    """A sampler whose every trial follows from the finished batches before it, seed and number.

    Subclasses say which tokens (`propose`). `reward` is given for studies with two
    objectives, accuracy to maximize and latency in milliseconds to minimize; without it the study's
    only objective is the reward (its negative, if the study minimizes).
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        reward: Reward | None = None,
        seed: int,
        batch_size: int,
        lag: int = 0,
    ) -> None:
        if not decisions:
            raise ConfigError("a sampler needs one or more decisions, and there is none")
        if batch_size < 1:
            raise ConfigError(f"a batch must have at least 1 trial, not {batch_size}")
        if lag < 0:
            raise ConfigError(f"a sampler lags by 0 batches or more, not {lag}")
        self.decisions = tuple(decisions)
        self.reward = reward
        self.seed = seed
        self.batch_size = batch_size
        self.lag = lag
        self._distributions = distributions_of(decisions)
        self._lock = threading.RLock()
        self._study_name: str | None = None
        self._history: list[Observation | None] = []
        self._lowest = math.inf
        self._warned_of: int | None = None

    @abstractmethod
    def propose(self, number: int, history: Sequence[Observation | None]) -> tuple[int, ...]:
        """Return the tokens of trial `number`, given the trials that it is to follow from.

        `history[n]` is what trial n taught, `None` for nothing; it holds whole batches, those up to `lag` before
        its own left out.
        """

    def forget(self) -> None:
        """Drop what was derived from a study: another study follows."""

    def trial_rng(self, number: int) -> random.Random:
        """Return the generator of trial `number`: the same one, whatever was sampled before."""
        return random.Random(f"trial/{self.seed}/{number}")

    def history(self, study: Study) -> Sequence[Observation | None]:
        """Return what the trials of the leading complete batches taught, by trial number."""
        with self._lock:
            trials = study.get_trials(deepcopy=False)
            if study.study_name != self._study_name or len(trials) < len(self._history):
                self._check_objectives(study)
                self.forget()
                self._history = []
                self._lowest = math.inf
                self._study_name = study.study_name
            while True:
                first = len(self._history)
                batch = trials[first : first + self.batch_size]
                if len(batch) < self.batch_size:
                    break
                if not all(trial.state.is_finished() for trial in batch):
                    self._warn_of_waiting(batch, len(trials))
                    break
                self._history += self._observe_batch(study, batch)
            return self._history

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions of the decisions, none for a trial that has them all (called by Optuna)."""
        return (
            {} if trial.params.keys() >= self._distributions.keys() else dict(self._distributions)
        )

    def create_trial(self, study: Study, number: int) -> int:
        """Add trial `number` to `study` with its parameters, and return its id.

        `Study.ask` adds the same trial, and then writes each parameter by itself, which takes ten times as long.
        """
        trial = create_trial(state=TrialState.RUNNING)
        trial.number = number
        trial.params = self.sample_relative(study, trial, dict(self._distributions))
        trial.distributions = dict(self._distributions)
        # Optuna has no other way to add a trial that is still to be told.
        return study._storage.create_new_trial(study._study_id, template_trial=trial)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return a choice for every decision that is asked for: all or none (called by Optuna)."""
        if not search_space:
            return {}
        with self._lock:
            batch = trial.number // self.batch_size
            followed = max(0, batch - self.lag) * self.batch_size
            history: Sequence[Observation | None] = self._history
            # Batches that it follows from and that are known are looked at no more: that takes longer with each trial.
            if self._study_name != study.study_name or not followed <= len(history) <= trial.number:
                history = self.history(study)
            tokens = self.propose(trial.number, history[:followed] if self.lag else history)
        return {
            decision.name: decision.choices[token]
            for decision, token in zip(self.decisions, tokens, strict=True)
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value of a parameter that is no decision (called by Optuna)."""
        rng = random.Random(f"parameter/{self.seed}/{trial.number}/{param_name}")
        return RandomSampler(seed=rng.getrandbits(32)).sample_independent(
            study, trial, param_name, param_distribution
        )

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Refuse values that can be no accuracy or latency as they are told (called by Optuna).

        Raises:
            ConfigError: if they can't. Optuna has stored the trial by then; it teaches nothing.
        """
        if state == TrialState.COMPLETE and values is not None and self.reward is not None:
            self._check_objectives(study)
            self.reward(*values)

    def _check_objectives(self, study: Study) -> None:
        directions = study.directions
        if self.reward is None and len(directions) != 1:
            raise ConfigError(
                f"without a reward the study must have one objective, not {len(directions)}: "
                "pass reward=Reward(target_latency_ms)"
            )
        if self.reward is not None and directions != [
            StudyDirection.MAXIMIZE,
            StudyDirection.MINIMIZE,
        ]:
            given = [direction.name.lower() for direction in directions]
            raise ConfigError(
                "with a reward the study's directions are ['maximize', 'minimize'] (accuracy, "
                f"latency in milliseconds), not {given}"
            )

    def _observe_batch(self, study: Study, batch: list[FrozenTrial]) -> list[Observation | None]:
        observed = [self._observe(study, trial) for trial in batch]
        rewards = [observation.reward for observation in observed if observation is not None]
        self._lowest = min([self._lowest, *rewards])
        worst = min(rewards, default=self._lowest)
        for index, trial in enumerate(batch):
            tokens = tokens_of(trial, self.decisions)
            if (
                trial.state == TrialState.FAIL
                and trial.user_attrs.get(CANDIDATE_FAULT) is True
                and tokens is not None
                and math.isfinite(worst)
            ):
                observed[index] = Observation(tokens, worst, failed=True)
        return observed

    def _observe(self, study: Study, trial: FrozenTrial) -> Observation | None:
        tokens = tokens_of(trial, self.decisions)
        if trial.state != TrialState.COMPLETE or tokens is None:
            return None
        if self.reward is None:
            value = trial.values[0]
            reward = -value if study.direction == StudyDirection.MINIMIZE else value
        else:
            try:
                reward = self.reward(*trial.values)
            except ConfigError:
                # `after_trial` said so when it was told.
                return None
        return Observation(tokens, reward) if math.isfinite(reward) else None

    def _warn_of_waiting(self, batch: Sequence[FrozenTrial], trials: int) -> None:
        waiting = next(trial.number for trial in batch if not trial.state.is_finished())
        late = trials - waiting > (_BATCHES_TO_WAIT + 1 + self.lag) * self.batch_size
        if late and waiting != self._warned_of:
            self._warned_of = waiting
            _LOGGER.warning(
                "trial %d is not finished, and nothing is learned from its batch and later ones "
                "until it is; if its process is gone: "
                "study.tell(%d, state=optuna.trial.TrialState.FAIL)",
                waiting,
                waiting,
            )
