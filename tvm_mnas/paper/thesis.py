"""Does a search find better networks where its reward has measured, tuned latencies in it? Tried on a table.

The same search (PPO, its seeds, its evaluations) is told one of five latencies (`stand_ins.py`) and the accuracy of a
short training. Of its finalists the one with the best reward is its pick, by a long training and the latency that it
was told. The pick is then judged by what is true: its tuned latency and its long accuracy, means over all measurements.

    regret = 1 - true reward of the pick / best true reward of the space
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.ranking import signed_rank_p
from tvm_mnas.evaluation.tables.evaluator import TableEvaluator
from tvm_mnas.evaluation.tables.files import read_table
from tvm_mnas.evaluation.tables.table import EvaluationTable
from tvm_mnas.paper.stand_ins import STAND_INS, stand_ins_ms
from tvm_mnas.search.algorithms.batches import Observation
from tvm_mnas.search.algorithms.sampler import PPOSampler
from tvm_mnas.search.pareto import Point, hypervolume, pareto_front
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.space import SearchSpace

QUANTILES = (0.25, 0.5, 0.75)
"""The targets: at these places among the space's tuned latencies."""
REWARDS = {"soft": Reward.soft, "hard": Reward.hard}
FINALISTS = 2
BATCH = 4
_SLACK = 2.0
"""The hypervolume reaches up to the target times this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What one search chose, and what that is worth.

    `over_percent` is how far its tuned latency is beyond the target, below 0 where it is within. `hypervolume_percent`
    is what the networks dominate that looked best to the search, of what the space's own front does.
    """

    stand_in: str
    reward: str
    quantile: float
    seed: int
    notation: str
    accuracy: float
    latency_ms: float
    target_ms: float
    regret_percent: float
    hypervolume_percent: float

    @property
    def over_percent(self) -> float:
        """How far beyond the target it is, in percent of that."""
        return 100.0 * (self.latency_ms / self.target_ms - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The picks of one stand-in under one reward, over all targets and seeds.

    `beyond_percent` is how many of them are more than 5% slower than the target. `p` is that of Wilcoxon's signed-rank
    test against the tuned latency's regrets, each the mean over the targets of a seed; None for the latency itself.
    """

    stand_in: str
    reward: str
    picks: int
    regret_percent: float
    regret_quartiles_percent: tuple[float, float]
    mean_regret_percent: float
    beyond_percent: float
    hypervolume_percent: float
    p: float | None


_BEYOND = 5.0
"""A pick that is so many percent slower than the target is beyond it."""


def make_picks(
    directory: Path,
    *,
    seeds: int,
    evaluations: int,
    jobs: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pick]:
    """Return the pick of each search on the table in `directory`: each stand-in, reward, target and seed.

    Raises:
        ConfigError: if the table is not of a whole space with accuracies.
        RunError: if it cannot be read.
    """
    table = read_table(directory)
    if not table.budgets or table.space.size != len(table.entries):
        raise ConfigError(
            f"the thesis is tried on a whole space with accuracies, and {table.name} has {len(table.entries)} of "
            f"{table.space.size:,} architectures, each with {len(table.budgets)} trainings; take fashion-mini"
        )
    tasks = [(directory, seed, evaluations) for seed in range(seeds)]
    picks: list[Pick] = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for done, found in enumerate(pool.map(_picks_of, tasks), start=1):
            picks += found
            on_progress(done, seeds)
    return picks


def judge(picks: Sequence[Pick]) -> tuple[Verdict, ...]:
    """Return what the picks of each stand-in are worth under each reward, the best first."""
    verdicts: list[Verdict] = []
    for reward in REWARDS:
        of = {name: _ordered(picks, name, reward) for name in STAND_INS}
        for name, mine in of.items():
            regrets = [pick.regret_percent for pick in mine]
            low, middle, high = statistics.quantiles(regrets, n=4, method="inclusive")
            beyond = sum(pick.over_percent > _BEYOND for pick in mine)
            verdicts.append(
                Verdict(
                    stand_in=name,
                    reward=reward,
                    picks=len(mine),
                    regret_percent=middle,
                    regret_quartiles_percent=(low, high),
                    mean_regret_percent=statistics.fmean(regrets),
                    beyond_percent=100.0 * beyond / len(mine),
                    hypervolume_percent=statistics.fmean(p.hypervolume_percent for p in mine),
                    p=None
                    if name == "tuned"
                    else signed_rank_p(_by_seed(mine), _by_seed(of["tuned"])),
                )
            )
    return tuple(sorted(verdicts, key=lambda one: (one.reward != "soft", one.mean_regret_percent)))


def sentence(verdicts: Sequence[Verdict]) -> str:
    """Return in a sentence what the verdicts show, whichever way it came out."""
    parts = []
    for reward in REWARDS:
        of = {one.stand_in: one for one in verdicts if one.reward == reward}
        tuned = of["tuned"]
        worse: list[str] = []
        better: list[str] = []
        alike: list[str] = []
        for name, one in of.items():
            if one.p is None:
                continue
            places = alike
            if one.p < 0.05:
                places = worse if one.mean_regret_percent > tuned.mean_regret_percent else better
            places.append(f"{name} ({one.mean_regret_percent:.2f}%)")
        text = f"with the {reward} constraint tuned latency's picks regret {tuned.mean_regret_percent:.2f}% in the mean"
        for names, words in (
            (worse, "significantly worse:"),
            (alike, "not told apart from it:"),
            (better, "significantly better:"),
        ):
            if names:
                text += f"; {words} {', '.join(names)}"
        parts.append(text)
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _picks_of(task: tuple[Path, int, int]) -> list[Pick]:
    directory, seed, evaluations = task
    table = read_table(directory)
    landscape = _Landscape.of(table, seed)
    stand_ins = stand_ins_ms(table, seed=seed)
    picks = []
    for quantile in QUANTILES:
        times = sorted(point.latency_ms for point in landscape.true.values())
        target_ms = times[round(quantile * (len(times) - 1))]
        for reward_name, make in REWARDS.items():
            for name, told_ms in stand_ins.items():
                reward = make(target_ms)
                tokens, volume = _search(landscape, told_ms, reward, seed, evaluations)
                truth = landscape.true[tokens]
                best = max(reward(*point) for point in landscape.true.values())
                picks.append(
                    Pick(
                        stand_in=name,
                        reward=reward_name,
                        quantile=quantile,
                        seed=seed,
                        notation=landscape.notations[tokens],
                        accuracy=truth.accuracy,
                        latency_ms=truth.latency_ms,
                        target_ms=target_ms,
                        regret_percent=100.0 * (1.0 - reward(*truth) / best),
                        hypervolume_percent=volume,
                    )
                )
    return picks


Tokens = tuple[int, ...]


@dataclass(frozen=True)
class _Landscape:
    """A table as a search sees it, by tokens: what is true, and what a short and a long training tell."""

    space: SearchSpace
    notations: dict[Tokens, str]
    true: dict[Tokens, Point]
    short: dict[Tokens, float]
    long: dict[Tokens, float]
    front_volume: Callable[[float], float]

    @classmethod
    def of(cls, table: EvaluationTable, seed: int) -> _Landscape:
        first = TableEvaluator(table, table.budgets[0], seed)
        last = TableEvaluator(table, table.budgets[-1], seed)
        candidates = [parse_candidate(entry.notation) for entry in table.entries]
        tokens = [table.space.encode(candidate) for candidate in candidates]  # type: ignore[arg-type]
        true = {at: Point(*first.judge(one)) for at, one in zip(tokens, candidates, strict=True)}
        told: list[dict[Tokens, float]] = []
        for evaluator in (first, last):
            accuracies: dict[Tokens, float] = {}
            for index, evaluation in evaluator.evaluate(candidates):
                assert evaluation.accuracy is not None
                accuracies[tokens[index]] = evaluation.accuracy.top1
            told.append(accuracies)
        points = list(true.values())
        return cls(
            space=table.space,
            notations={at: one.notation for at, one in zip(tokens, candidates, strict=True)},
            true=true,
            short=told[0],
            long=told[1],
            front_volume=lambda reach_ms: hypervolume(points, reference=Point(0.0, reach_ms)),
        )


def _search(
    landscape: _Landscape,
    told_ms: dict[str, float],
    reward: Reward,
    seed: int,
    evaluations: int,
) -> tuple[Tokens, float]:
    """Return the pick of one search, and the true hypervolume of what looked best to it, in percent of the space's."""
    sampler = PPOSampler(landscape.space.decisions, seed=seed, batch_size=BATCH)
    history: list[Observation | None] = []
    met: dict[Tokens, float] = {}
    for first in range(0, evaluations, BATCH):
        batch = [sampler.propose(first + place, history) for place in range(BATCH)]
        for tokens in batch:
            met[tokens] = reward(landscape.short[tokens], told_ms[landscape.notations[tokens]])
        history = [*history, *(Observation(tokens, met[tokens]) for tokens in batch)]
    finalists = sorted(met, key=lambda tokens: -met[tokens])[:FINALISTS]
    pick = max(
        finalists,
        key=lambda tokens: reward(landscape.long[tokens], told_ms[landscape.notations[tokens]]),
    )
    seen = list(met)
    told = [Point(landscape.short[at], told_ms[landscape.notations[at]]) for at in seen]
    chosen = [landscape.true[seen[index]] for index in pareto_front(told)]
    reach_ms = _SLACK * reward.target_latency_ms
    volume = hypervolume(chosen, reference=Point(0.0, reach_ms))
    return pick, 100.0 * volume / landscape.front_volume(reach_ms)


def _ordered(picks: Sequence[Pick], name: str, reward: str) -> list[Pick]:
    """Return the picks of one stand-in in an order that is the same for all, to be compared pair by pair."""
    mine = [pick for pick in picks if (pick.stand_in, pick.reward) == (name, reward)]
    return sorted(mine, key=lambda pick: (pick.quantile, pick.seed))


def _by_seed(picks: Sequence[Pick]) -> list[float]:
    """Return the mean regret of each seed: its targets are searched on one landscape, and are no samples apart."""
    seeds = sorted({pick.seed for pick in picks})
    return [
        statistics.fmean(pick.regret_percent for pick in picks if pick.seed == seed)
        for seed in seeds
    ]
