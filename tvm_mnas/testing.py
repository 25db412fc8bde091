"""An evaluator that needs no data and no device, with a known optimum: for tests of searches.

:class:`SyntheticEvaluator` turns tokens into an accuracy and a latency by formulas with the shape
of the real thing: blocks add up to a latency, wide and deep blocks cost more the wider the block
before them is, accuracy saturates with capacity, and which choice is worth its time differs from
block to block. What is best for any reward is computed exactly, so that a search can be told how
far it is from the optimum.

Importable without torch and TVM; use it to test your own sampler or objective::

    evaluator = SyntheticEvaluator(load_space("mnasnet").decisions)
    optimum = evaluator.optimum(Reward.soft(80.0))
    result = evaluator.evaluate(tokens)      # result.accuracy, result.latency_ms
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import ConfigError, TrainingError
from tvm_mnas.evaluation.results import Effort, Evaluation, Failure
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.space import Choice, Decision, SearchSpace
from tvm_mnas.training.accuracy import Accuracy

_TICK_MS = 0.01
"""Latencies are whole numbers of these, so that the optimum can be computed exactly."""

_COST_EXPONENT = {"filters": 1.0, "layers": 1.0, "kernel_size": 0.6, "se_ratio": 0.1}
_OTHER_EXPONENT = 0.5


@dataclass(frozen=True, slots=True)
class SyntheticResult:
    """What one candidate would be like: accuracy in 0..1, latency in milliseconds."""

    accuracy: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Optimum:
    """A best candidate of the whole space under one reward."""

    tokens: tuple[int, ...]
    accuracy: float
    latency_ms: float
    reward: float


@dataclass(frozen=True, slots=True)
class _Group:
    """The decisions of one block, with the cost and capacity of every combination of tokens.

    `ticks[p, c]` is the cost of combination c (row-major over the decisions) after a block whose
    width token is p; `capacity[c]` what it adds; `width[c]` its own width token, which the next
    block's cost depends on.
    """

    sizes: tuple[int, ...]
    ticks: np.ndarray
    capacity: np.ndarray
    width: np.ndarray

    def combination(self, tokens: Sequence[int]) -> int:
        index = 0
        for token, size in zip(tokens, self.sizes, strict=True):
            index = index * size + token
        return index

    def tokens(self, combination: int) -> tuple[int, ...]:
        reverse = []
        for size in reversed(self.sizes):
            combination, token = divmod(combination, size)
            reverse.append(token)
        return tuple(reversed(reverse))


class SyntheticEvaluator:
    """A deterministic stand-in for training and measuring, over any sequence of decisions.

    Decisions whose names share what precedes the last dot (`block3.conv_op`, `block3.filters`) form
    a block. `seed` picks another landscape; an average candidate takes about `typical_latency_ms`.
    `accuracy_noise` is the standard deviation of what a short training adds by chance, a fixed
    amount per candidate; the optimum leaves it out. A share `failure_rate` of the candidates,
    always the same ones, raises `TrainingError`.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        seed: int = 0,
        typical_latency_ms: float = 100.0,
        accuracy_noise: float = 0.0,
        failure_rate: float = 0.0,
    ) -> None:
        if not decisions:
            raise ConfigError(
                "a synthetic evaluator needs one or more decisions, and there is none"
            )
        if not 0.0 <= failure_rate <= 1.0:
            raise ConfigError(f"failure_rate must be in 0..1, not {failure_rate}")
        if not accuracy_noise >= 0.0:
            raise ConfigError(f"accuracy_noise must be at least 0, not {accuracy_noise}")
        if not typical_latency_ms > 0.0:
            raise ConfigError(f"typical_latency_ms must be positive, not {typical_latency_ms}")
        self._decisions = tuple(decisions)
        self._seed = seed
        self._accuracy_noise = accuracy_noise
        self._failure_rate = failure_rate
        self._groups = _build_groups(
            self._decisions, random.Random(f"landscape/{seed}"), typical_latency_ms
        )

    def evaluate(self, tokens: Sequence[int]) -> SyntheticResult:
        """Return the accuracy and latency of the candidate with these `tokens`, one per decision.

        Raises:
            ConfigError: if they are not tokens of the decisions.
            TrainingError: if this candidate is one of those that fail.
        """
        rng = random.Random(f"candidate/{self._seed}/{','.join(map(str, tokens))}")
        if rng.random() < self._failure_rate:
            raise TrainingError(f"synthetic failure of {list(tokens)}, as failure_rate asked for")
        result = self._noiseless(tokens)
        noise = rng.gauss(0.0, self._accuracy_noise) if self._accuracy_noise else 0.0
        return SyntheticResult(min(1.0, max(0.0, result.accuracy + noise)), result.latency_ms)

    def optimum(self, reward: Reward) -> Optimum:
        """Return the best candidate under `reward`, computed exactly, without noise and failures.

        A dynamic program over the blocks: for each width of the last block and each latency it
        keeps the most capacity that reaches it. That suffices because accuracy grows with capacity.
        """
        widths = 1
        slowest = sum(int(group.ticks.max()) for group in self._groups)
        best = np.full((widths, slowest + 1), -np.inf)
        best[0, 0] = 0.0
        choices: list[tuple[np.ndarray, np.ndarray]] = []
        for group in self._groups:
            widths = int(group.width.max()) + 1
            after = np.full((widths, slowest + 1), -np.inf)
            chosen = np.full((widths, slowest + 1), -1, dtype=np.int64)
            came_from = np.full((widths, slowest + 1), -1, dtype=np.int64)
            for previous, combination in itertools.product(
                range(best.shape[0]), range(len(group.capacity))
            ):
                width, ticks = (
                    int(group.width[combination]),
                    int(group.ticks[previous, combination]),
                )
                reached = best[previous, : slowest + 1 - ticks] + group.capacity[combination]
                better = reached > after[width, ticks:]
                after[width, ticks:][better] = reached[better]
                chosen[width, ticks:][better] = combination
                came_from[width, ticks:][better] = previous
            best = after
            choices.append((chosen, came_from))
        _, width, ticks = max(
            (
                reward(_accuracy(best[width, ticks]), max(1, ticks) * _TICK_MS),
                width,
                ticks,
            )
            for width, ticks in zip(*np.nonzero(np.isfinite(best)), strict=True)
        )
        return self._trace(choices, int(width), int(ticks), reward)

    def _trace(
        self,
        choices: Sequence[tuple[np.ndarray, np.ndarray]],
        width: int,
        ticks: int,
        reward: Reward,
    ) -> Optimum:
        """Walk back from the best last state to the tokens that lead there."""
        reverse: list[tuple[int, ...]] = []
        for group, (chosen, came_from) in zip(
            reversed(self._groups), reversed(choices), strict=True
        ):
            combination, previous = (
                int(chosen[width, ticks]),
                int(came_from[width, ticks]),
            )
            reverse.append(group.tokens(combination))
            ticks -= int(group.ticks[previous, combination])
            width = previous
        tokens = tuple(itertools.chain.from_iterable(reversed(reverse)))
        result = self._noiseless(tokens)
        return Optimum(
            tokens,
            result.accuracy,
            result.latency_ms,
            reward(result.accuracy, result.latency_ms),
        )

    def _noiseless(self, tokens: Sequence[int]) -> SyntheticResult:
        if len(tokens) != len(self._decisions) or not all(
            0 <= token < len(decision.choices)
            for token, decision in zip(tokens, self._decisions, strict=True)
        ):
            raise ConfigError(
                f"tokens are {len(self._decisions)} indices of choices, one per decision, "
                f"not {list(tokens)}"
            )
        remaining = iter(tokens)
        previous, ticks, capacity = 0, 0, 0.0
        for group in self._groups:
            combination = group.combination([next(remaining) for _ in group.sizes])
            ticks += int(group.ticks[previous, combination])
            capacity += float(group.capacity[combination])
            previous = int(group.width[combination])
        return SyntheticResult(_accuracy(capacity), max(1, ticks) * _TICK_MS)


class SyntheticCandidates:
    """Evaluates a space's candidates by the formulas of a `SyntheticEvaluator`: what the loop of a search takes."""

    def __init__(self, space: SearchSpace, *, seed: int = 1, failure_rate: float = 0.0) -> None:
        self._space = space
        self._formulas = SyntheticEvaluator(space.decisions, seed=seed, failure_rate=failure_rate)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        """Yield `(index, evaluation)` of each."""
        for index, candidate in enumerate(candidates):
            yield index, self.evaluation(candidate)

    def evaluation(self, candidate: Candidate) -> Evaluation:
        """Return what becomes of `candidate`: an architecture of the space."""
        assert isinstance(candidate, Architecture)
        try:
            result = self._formulas.evaluate(self._space.encode(candidate))
        except TrainingError as error:
            failure = Failure.of("training", error)
            return Evaluation.failed(candidate, failure, Effort(training_s=1.0))
        return Evaluation.success(
            candidate,
            Accuracy(result.accuracy, 2000, 120, 0.5, 4.0, 0, "validation"),
            Latency(
                samples_ms=(result.latency_ms,),
                device_key="synthetic",
                fingerprint="none",
                target="none",
                tvm_version="none",
                measured_at="2025-01-02T03:04:05+00:00",
                emulated=False,
                max_spread=0.1,
            ),
            Effort(training_s=4.0, kernels=12),
        )


def _accuracy(capacity: float) -> float:
    """Return the accuracy, which saturates at 80%; an average candidate has a capacity of 1."""
    return 0.8 * (1.0 - math.exp(-2.0 * capacity))


def _build_groups(
    decisions: Sequence[Decision], rng: random.Random, typical_latency_ms: float
) -> tuple[_Group, ...]:
    blocks = [
        tuple(members)
        for _, members in itertools.groupby(decisions, key=lambda d: d.name.rpartition(".")[0])
    ]
    shares = [rng.uniform(0.5, 1.5) for _ in blocks]
    groups: list[_Group] = []
    previous_widths: tuple[float, ...] = (1.0,)
    for block, share in zip(blocks, shares, strict=True):
        share /= sum(shares)
        costs, values = zip(*(_factors(decision, rng) for decision in block), strict=True)
        cost = _outer(costs)
        value = _outer(values)
        width_at = next((i for i, d in enumerate(block) if d.name.endswith("filters")), None)
        sizes = tuple(len(decision.choices) for decision in block)
        ones: tuple[float, ...] = (1.0,)
        widths = ones if width_at is None else _relative(block[width_at].choices)
        width = (
            np.zeros(cost.size, dtype=np.int64)
            if width_at is None
            else np.indices(sizes)[width_at].reshape(-1)
        )
        ticks = np.outer(previous_widths, cost) * share * typical_latency_ms / _TICK_MS
        groups.append(
            _Group(
                sizes,
                np.rint(ticks / cost.mean()).astype(np.int64),
                share * value / value.mean(),
                width,
            )
        )
        previous_widths = widths
    return tuple(groups)


def _factors(decision: Decision, rng: random.Random) -> tuple[list[float], list[float]]:
    """Return what each choice of `decision` multiplies its block's cost and capacity by.

    Numbers cost in proportion to a power of their size; words cost anything within a factor of two
    or so. What costs more is worth more, with diminishing returns, and with luck that differs from
    block to block.
    """
    name = decision.name.rpartition(".")[2]
    sizes = _relative(decision.choices)
    exponent = _COST_EXPONENT.get(name, _OTHER_EXPONENT)
    costs: list[float] = []
    values: list[float] = []
    for choice, size in zip(decision.choices, sizes, strict=True):
        cost = math.exp(rng.uniform(-0.5, 0.5)) if isinstance(choice, str) else size**exponent
        costs.append(cost)
        values.append(cost ** rng.uniform(0.1, 0.5) * math.exp(rng.gauss(0.0, 0.1)))
    return costs, values


def _relative(choices: Sequence[Choice]) -> tuple[float, ...]:
    """Return numbers in proportion to their mean, words as ones."""
    if any(isinstance(choice, str) for choice in choices):
        return tuple(1.0 for _ in choices)
    numbers = [1.0 + float(choice) if 0.0 in choices else float(choice) for choice in choices]
    mean = sum(numbers) / len(numbers)
    return tuple(number / mean for number in numbers)


def _outer(factors: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the product for every combination, row-major, flat."""
    product = np.ones(1)
    for factor in factors:
        product = np.outer(product, factor).reshape(-1)
    return product
