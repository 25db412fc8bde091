"""What search methods are tried on: landscapes whose best candidate is known exactly.

mnasnet              accuracy and latency are formulas over that space; each seed is another landscape
mnasnet+0.02         what a search is told has noise of that standard deviation in the accuracy, a fixed one a candidate
table:fashion-mini   a table: what a search is told is what is true, the mean of the longest trainings and all latencies
table:NAME+noise     a search is told one short training and one latency of each, as `--evaluator table:NAME` tells
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tvm_mnas.evaluation.tables.evaluator import TableEvaluator, settings_of_table
from tvm_mnas.evaluation.tables.files import find_table, read_table
from tvm_mnas.evaluation.tables.table import EvaluationTable
from tvm_mnas.search.pareto import Point
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.space.space import Decision
from tvm_mnas.testing import SyntheticEvaluator

TARGET_LATENCY_MS = 80.0
"""Of the landscapes made by formulas."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Landscape:
    """A task: what can be chosen, what a search is told of a choice, what is true, and the best reward there is."""

    decisions: tuple[Decision, ...]
    reward: Reward
    optimum: float
    told: dict[Tokens, Point] | SyntheticEvaluator
    true: dict[Tokens, Point] | SyntheticEvaluator

    def tell(self, tokens: Sequence[int]) -> Point:
        """Return what a search is told of `tokens`."""
        return _look(self.told, tokens)

    def truth(self, tokens: Sequence[int]) -> Point:
        """Return what is true of `tokens`."""
        return _look(self.true, tokens)


def open_landscape(name: str, *, seed: int, hard: bool = False) -> Landscape:
    """Return the landscape called `name`; `seed` picks one of its kind, or its noise."""
    kind, _, noise = name.partition("+")
    if kind.startswith("table:"):
        return _table_landscape(kind.removeprefix("table:"), seed, hard=hard, noisy=bool(noise))
    decisions = load_space(kind).decisions
    reward = (Reward.hard if hard else Reward.soft)(TARGET_LATENCY_MS)
    exact = SyntheticEvaluator(decisions, seed=seed)
    told = SyntheticEvaluator(decisions, seed=seed, accuracy_noise=float(noise or 0.0))
    return Landscape(decisions, reward, exact.optimum(reward).reward, told, exact)


@lru_cache(maxsize=4)
def _opened(name: str) -> tuple[EvaluationTable, float]:
    table = read_table(find_table(name))
    target_ms = settings_of_table(name)["target_latency_ms"]
    assert isinstance(target_ms, float)
    return table, target_ms


def _table_landscape(name: str, seed: int, *, hard: bool, noisy: bool) -> Landscape:
    table, target_ms = _opened(name)
    reward = (Reward.hard if hard else Reward.soft)(target_ms)
    evaluator = TableEvaluator(table, table.budgets[0], seed)
    candidates = [parse_candidate(entry.notation) for entry in table.entries]
    tokens = [table.space.encode(candidate) for candidate in candidates]  # type: ignore[arg-type]
    true = {at: Point(*evaluator.judge(one)) for at, one in zip(tokens, candidates, strict=True)}
    told = true
    if noisy:
        told = {
            tokens[index]: Point(*evaluation.objectives)
            for index, evaluation in evaluator.evaluate(candidates)
            if evaluation.objectives
        }
    optimum = max(reward(*point) for point in true.values())
    return Landscape(table.space.decisions, reward, optimum, told, true)


def _look(where: dict[Tokens, Point] | SyntheticEvaluator, tokens: Sequence[int]) -> Point:
    if isinstance(where, dict):
        return where[tuple(tokens)]
    result = where.evaluate(tokens)
    return Point(result.accuracy, result.latency_ms)
