"""The paper's search algorithm as an Optuna sampler: an LSTM controller trained with PPO.

`PPOSampler` works in anybody's study:

    reward = Reward.soft(80.0)
    study = optuna.create_study(
        directions=["maximize", "minimize"],                 # accuracy, latency in milliseconds
        sampler=PPOSampler(space.decisions, reward=reward, seed=0),
    )

or, without `reward`, in a study with one objective, which is the reward then. Every decision is a
categorical parameter with its real choices (`distributions_of`).

**Exact resume.** Batch k is the trials numbered from k * batch_size to (k + 1) * batch_size - 1. Once all of them
are finished the controller gets update k, in the order of their numbers, however they were told; and the tokens of
trial n are a function of the controller after the batches before its own, of the seed and of n. So the controller
is a function of the study: a process that starts anew catches up by replaying the batches, and the trials that it
goes on with are those that an uninterrupted process would have sampled. A checkpoint spares the replay; it is used
only where it belongs to this study's history.

This holds where a batch is asked only after the batch before it is finished, as `search/loop.py` does. Asked
earlier (`n_jobs`, several processes), a trial is sampled from the newest controller whose batches are complete: a
good search too, but what was newest is not repeatable.

**Lag.** With a lag of L, trials of batch k are sampled from the controller after the batches up to k - L - 1, whichever
else are complete by then, so that L batches more may be asked before one is finished, and who is slow holds nobody up.
The sequence of trials depends on seed and results alone, as without. An update takes the ratio of probabilities to
those that its trials were sampled with.

**New candidates.** What was met before costs nothing to evaluate and tells nothing, so that a sequence among those
that the controller has learned from, or earlier in its own batch, is drawn again, each time a little less likely to
follow the policy (`PPOSettings.redraws`; 0 leaves it, as the paper does). A controller that has made up its mind
then looks at the neighbours of what it prefers. Tokens stay a function of study, seed and number.

**Failures.** A candidate that failed by its own fault (it trains to NaN, does not compile, exceeds a limit)
teaches the worst reward that there is evidence for: the lowest of its batch's other trials, else the lowest so
far. Such a trial ends as failed with the user attribute `CANDIDATE_FAULT`. Any other that failed (a device was
lost), was pruned, or has parameters from elsewhere (`enqueue_trial`) that aren't this space's counts towards its
batch and teaches nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.study import Study

from tvm_mnas.errors import RunError
from tvm_mnas.search.algorithms.batches import BatchSampler, Observation
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision

if TYPE_CHECKING:
    from tvm_mnas.search.algorithms.controller import Controller
    from tvm_mnas.search.algorithms.ppo import PPO, PPOSettings, UpdateReport

_LOGGER = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = 1


@dataclass
class _Batch:
    """What is proposed in one batch, with what it follows from: the length of the history, and the batch's index."""

    key: tuple[int, int]
    met: set[tuple[int, ...]]
    proposals: list[tuple[int, ...]] = field(default_factory=list)


class PPOSampler(BatchSampler):
    """The controller of the paper. See the module's text for what it takes and what it promises.

    `checkpoint` is a file that is kept up to date, or `None` to replay the study instead; deleting
    it never loses anything. `settings` defaults to `PPOSettings.for_batches(batch_size)`.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        reward: Reward | None = None,
        seed: int,
        batch_size: int = 16,
        lag: int = 0,
        settings: PPOSettings | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        super().__init__(decisions, reward=reward, seed=seed, batch_size=batch_size, lag=lag)
        self._settings = settings
        self._checkpoint = checkpoint
        self._ppo: PPO | None = None
        self._sampling: tuple[tuple[int, int], Controller] | None = None
        self._batch = _Batch((-1, -1), set())
        self._digest = ""
        self.last_update: UpdateReport | None = None

    @property
    def ppo(self) -> PPO:
        """The controller as of the last trial sampled, or as of `catch_up`."""
        if self._ppo is None:
            from tvm_mnas.search.algorithms.ppo import PPO, PPOSettings

            self._settings = self._settings or PPOSettings.for_batches(self.batch_size)
            choices = [len(decision.choices) for decision in self.decisions]
            self._ppo = PPO(choices, settings=self._settings, seed=self.seed, lag=self.lag)
            self._digest = ""
        return self._ppo

    def catch_up(self, study: Study) -> int:
        """Learn from every complete batch of `study`; return how many there are.

        Sampling does this by itself; call it to have the controller, and its checkpoint, up to date
        at the end.
        """
        with self._lock:
            history = self.history(study)
            self._learn(history)
            return self.ppo.updates_done

    def propose(self, number: int, history: Sequence[Observation | None]) -> tuple[int, ...]:
        """Return tokens sampled from the controller that has learned from all of `history`, and from no more."""
        self._learn(history)
        policy = self._policy(len(history) // self.batch_size)
        if not self.ppo.settings.redraws:
            return policy.sample(self.trial_rng(number))
        index, place = divmod(number, self.batch_size)
        if self._batch.key != (len(history), index):
            met = {observation.tokens for observation in history if observation is not None}
            self._batch = _Batch((len(history), index), met)
        batch = self._batch
        # Those before it in the batch too, whoever asked for them: they are what it must not repeat.
        while len(batch.proposals) <= place:
            tokens = self._draw(policy, index * self.batch_size + len(batch.proposals), batch.met)
            batch.proposals.append(tokens)
            batch.met.add(tokens)
        return batch.proposals[place]

    def _draw(self, policy: Controller, number: int, met: set[tuple[int, ...]]) -> tuple[int, ...]:
        settings, rng = self.ppo.settings, self.trial_rng(number)
        tokens = policy.sample(rng)
        if tokens not in met:
            return tokens
        # Together they take little longer than one.
        again = policy.sample_hot(
            [random.Random(rng.getrandbits(64)) for _ in range(settings.redraws)],
            [settings.heat**redraw for redraw in range(1, settings.redraws + 1)],
        )
        return next((other for other in again if other not in met), again[-1])

    def _policy(self, updates: int) -> Controller:
        # For a whole batch it is the same one.
        if self._sampling is None or self._sampling[0] != (updates, self.ppo.updates_done):
            self._sampling = (updates, self.ppo.updates_done), self.ppo.policy(updates)
        return self._sampling[1]

    def forget(self) -> None:
        """Start from an untrained controller."""
        self._ppo = None
        self._sampling = None
        self._batch = _Batch((-1, -1), set())
        self.last_update = None

    def _learn(self, history: Sequence[Observation | None]) -> None:
        batches = len(history) // self.batch_size
        if self.ppo.updates_done == 0 and batches:
            # It may have learned from more than this trial follows from.
            self._restore(self._history)
        if self.ppo.updates_done >= batches:
            return
        for index in range(self.ppo.updates_done, batches):
            batch = history[index * self.batch_size : (index + 1) * self.batch_size]
            learned = [observation for observation in batch if observation is not None]
            report = self.ppo.update(
                [observation.tokens for observation in learned],
                [observation.reward for observation in learned],
            )
            self.last_update = report or self.last_update
            self._digest = _extend_digest(self._digest, batch)
        if self._checkpoint is not None:
            self.ppo.save(
                self._checkpoint,
                metadata={"fingerprint": self._fingerprint(), "history": self._digest},
            )

    def _restore(self, history: Sequence[Observation | None]) -> None:
        """Load the checkpoint where it is one of this very history."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        from tvm_mnas.search.algorithms.ppo import read_metadata

        digest = ""
        try:
            metadata = read_metadata(self._checkpoint)
            if metadata.get("fingerprint") != self._fingerprint():
                raise RunError("it is of other decisions, settings, seed, reward or batch size")
            updates = int(metadata.get("updates_done", "-1"))
            if not 0 <= updates <= len(history) // self.batch_size:
                raise RunError(f"it has {updates} updates, more than this study has batches")
            for index in range(updates):
                batch = history[index * self.batch_size : (index + 1) * self.batch_size]
                digest = _extend_digest(digest, batch)
            if metadata.get("history") != digest:
                raise RunError("it learned from other trials")
            self.ppo.load(self._checkpoint)
        except (RunError, ValueError) as error:
            _LOGGER.warning(
                "%s is not used (%s): the controller is replayed from the study",
                self._checkpoint,
                error,
            )
            return
        self._digest = digest

    def _fingerprint(self) -> str:
        """Return a digest of everything but the trials that the controller depends on."""
        parts = [
            _CHECKPOINT_FORMAT,
            [[decision.name, *decision.choices] for decision in self.decisions],
            asdict(self.ppo.settings),
            self.seed,
            self.batch_size,
            None if self.reward is None else asdict(self.reward),
            *([self.lag] if self.lag else []),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _extend_digest(digest: str, batch: Sequence[Observation | None]) -> str:
    """Return the digest of the history with one batch more."""
    taught = [
        None if observation is None else [observation.tokens, observation.reward.hex()]
        for observation in batch
    ]
    return hashlib.sha256((digest + json.dumps(taught)).encode()).hexdigest()
