"""Regularized evolution against its description, random search, and the factory."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import optuna
import pytest

from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import ALGORITHMS
from tvm_mnas.search.algorithms.batches import BatchSampler, Observation, distributions_of
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler
from tvm_mnas.search.algorithms.evolution import RegularizedEvolutionSampler, UniformSampler
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision

DECISIONS = tuple(Decision(f"d{number}", tuple(range(3))) for number in range(5))
REWARD = Reward(80.0)


def _history(length: int, seed: int = 0) -> list[Observation | None]:
    rng = random.Random(seed)
    return [
        Observation(tuple(rng.randrange(3) for _ in DECISIONS), rng.random()) for _ in range(length)
    ]


def _distance(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))


def test_a_child_differs_in_one_decision_from_the_best_of_a_full_tournament() -> None:
    sampler = RegularizedEvolutionSampler(DECISIONS, seed=0, population=8, tournament=8)
    history = _history(8)
    best = max((o for o in history if o is not None), key=lambda o: o.reward)
    children = {sampler.propose(number, history) for number in range(8, 400)}
    assert {_distance(child, best.tokens) for child in children} == {1}
    # Every neighbour comes up: five decisions with two other tokens each.
    assert len(children) == 10


def test_the_tournament_presses_towards_better_parents() -> None:
    sampler = RegularizedEvolutionSampler(DECISIONS, seed=0, population=10, tournament=3)
    far_apart = [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (2, 2, 2, 2, 2)]
    history: list[Observation | None] = [
        Observation(far_apart[0], 0.9),
        *(Observation(far_apart[1], 0.5) for _ in range(4)),
        *(Observation(far_apart[2], 0.1) for _ in range(5)),
    ]
    parents = Counter(
        min(far_apart, key=lambda p, n=number: _distance(p, sampler.propose(n, history)))  # type: ignore[misc]
        for number in range(1000)
    )
    # Three of ten are drawn: the best is among them in 3/10, none but the worst five in 10/120.
    assert parents[far_apart[0]] / 1000 == pytest.approx(0.3, abs=0.06)
    assert parents[far_apart[2]] / 1000 == pytest.approx(10 / 120, abs=0.04)


def test_the_oldest_die_whatever_their_reward() -> None:
    sampler = RegularizedEvolutionSampler(DECISIONS, seed=0, population=4, tournament=4)
    champion = Observation((0, 0, 0, 0, 0), 1.0)
    young: list[Observation | None] = [Observation((2, 2, 2, 2, 2), 0.1) for _ in range(4)]
    for number in range(50):
        child = sampler.propose(number, [champion, *young])
        assert _distance(child, (2, 2, 2, 2, 2)) == 1
        assert _distance(sampler.propose(number, [champion, *young[1:]]), champion.tokens) == 1


def test_failed_trials_are_not_members_and_until_there_are_enough_trials_are_random() -> None:
    sampler = RegularizedEvolutionSampler(DECISIONS, seed=0, population=4, tournament=4)
    uniform = UniformSampler(DECISIONS, seed=0)
    three = [*_history(3), None, None]
    for number in range(20):
        assert sampler.propose(number, three) == uniform.propose(number, [])
    member = Observation((1, 1, 1, 1, 1), 0.5)
    four = [None, member, None, member, member, None, member]
    assert all(_distance(sampler.propose(n, four), member.tokens) == 1 for n in range(20))


def test_a_failed_candidate_that_teaches_the_controller_is_no_member_either() -> None:
    sampler = RegularizedEvolutionSampler(DECISIONS, seed=3, population=8, tournament=8)
    members = [one for one in _history(8) if one is not None]
    assert len(members) == 8
    failed = [replace(one, reward=1e9, failed=True) for one in members]
    assert sampler.propose(20, [*members, *failed]) == sampler.propose(20, members)


def test_random_search_draws_every_architecture_alike() -> None:
    decisions = DECISIONS[:2]
    sampler = UniformSampler(decisions, seed=3)
    seen = Counter(sampler.propose(number, []) for number in range(9000))
    assert set(seen) == set(itertools.product(range(3), range(3)))
    # One standard deviation is 30.
    assert all(abs(count - 1000) < 130 for count in seen.values())


@pytest.mark.parametrize("name", ALGORITHMS.names)
@pytest.mark.parametrize("objectives", [1, 2])
def test_every_algorithm_searches_a_study_with_either_kind_of_objective(
    name: str, objectives: int
) -> None:
    reward = REWARD if objectives == 2 else None
    sampler = make_sampler(
        name,
        AlgorithmRequest(decisions=DECISIONS, reward=reward, seed=0, batch_size=4, population=4),
    )
    directions = ["maximize", "minimize"][:objectives]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for number in range(24):
        trial = study.ask(dict(distributions_of(DECISIONS)))
        accuracy = sum(trial.params.values()) / 10
        study.tell(trial, [accuracy, 100.0 + number][:objectives])
    assert all(set(trial.params) == {d.name for d in DECISIONS} for trial in study.trials)
    assert len({tuple(trial.params.items()) for trial in study.trials}) > 8
    assert isinstance(sampler, BatchSampler) == (
        name in ("ppo", "ppo-paper", "evolution", "random")
    )


def test_an_unknown_algorithm_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        make_sampler("genetic", AlgorithmRequest(decisions=DECISIONS, reward=REWARD, seed=0))
    for name in (*ALGORITHMS.names, "'genetic'"):
        assert name in str(caught.value)


@pytest.mark.parametrize(("population", "tournament"), [(4, 5), (4, 0), (0, 0)])
def test_an_impossible_tournament_is_refused(population: int, tournament: int) -> None:
    with pytest.raises(ConfigError, match="tournament"):
        RegularizedEvolutionSampler(DECISIONS, seed=0, population=population, tournament=tournament)
