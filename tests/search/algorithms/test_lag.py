"""Searches with several batches in flight: the sequence is the same whoever finishes first, interrupted or not."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from tests.search.algorithms.test_sampler import (
    BATCH,
    DECISIONS,
    EVALUATOR,
    REWARD,
    SETTINGS,
    Killed,
    assert_same,
    open_study,
    sequence,
    weights,
)
from tvm_mnas.errors import CandidateError, ConfigError
from tvm_mnas.search.algorithms.batches import (
    CANDIDATE_FAULT,
    BatchSampler,
    distributions_of,
    tokens_of,
)
from tvm_mnas.search.algorithms.evolution import RegularizedEvolutionSampler
from tvm_mnas.search.algorithms.ppo import PPO
from tvm_mnas.search.algorithms.sampler import PPOSampler
from tvm_mnas.search.study.database import database_storage
from tvm_mnas.search.study.journal import journal_storage

TRIALS = 30
Make = Callable[[int, Path | None], BatchSampler]


@pytest.fixture(autouse=True)
def _quiet_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_ppo(lag: int, checkpoint: Path | None = None) -> PPOSampler:
    return PPOSampler(
        DECISIONS,
        reward=REWARD,
        seed=5,
        batch_size=BATCH,
        lag=lag,
        settings=SETTINGS,
        checkpoint=checkpoint,
    )


def make_evolution(lag: int, checkpoint: Path | None = None) -> RegularizedEvolutionSampler:
    return RegularizedEvolutionSampler(
        DECISIONS, reward=REWARD, seed=5, batch_size=BATCH, lag=lag, population=6, tournament=3
    )


def fly(
    study: optuna.Study, rng: random.Random, *, trials: int = TRIALS, tells: int = 1_000
) -> int:
    """Ask as early as the sampler's lag allows and finish in any order; return the most that were in flight."""
    sampler = study.sampler
    assert isinstance(sampler, BatchSampler)
    distributions = distributions_of(DECISIONS)
    told, most = 0, 0
    while True:
        everything = study.get_trials(deepcopy=False)
        finished = {trial.number for trial in everything if trial.state.is_finished()}
        complete = 0
        while set(range(complete * BATCH, (complete + 1) * BATCH)) <= finished:
            complete += 1
        asked = min(trials, (complete + 1 + sampler.lag) * BATCH)
        while len(study.get_trials(deepcopy=False)) < asked:
            study.ask(fixed_distributions=distributions)
        flying = [t for t in study.get_trials(deepcopy=False) if not t.state.is_finished()]
        most = max(most, len(flying))
        if not flying:
            return most
        if told == tells:
            raise Killed
        told += 1
        chosen = rng.choice(flying)
        trial = optuna.Trial(study, chosen._trial_id)
        for name, distribution in distributions.items():
            trial.suggest_categorical(name, distribution.choices)
        tokens = tokens_of(study.get_trials(deepcopy=False)[chosen.number], DECISIONS)
        assert tokens is not None
        try:
            result = EVALUATOR.evaluate(tokens)
        except CandidateError:
            trial.set_user_attr(CANDIDATE_FAULT, True)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [result.accuracy, result.latency_ms])


@pytest.mark.parametrize("make", [make_ppo, make_evolution])
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_who_finishes_first_does_not_matter(tmp_path: Path, make: Make, lag: int) -> None:
    studies = []
    for order in range(3):
        study = open_study(tmp_path / f"{order}.log", make(lag, None))
        most = fly(study, random.Random(order))
        assert most == min(TRIALS, (lag + 1) * BATCH)
        studies.append(study)
    assert sequence(studies[1]) == sequence(studies[0]) == sequence(studies[2])
    if make is make_ppo:
        first, *others = (make_ppo(lag) for _ in studies)
        expected = weights(first, studies[0])
        for sampler, study in zip(others, studies[1:], strict=True):
            assert_same(weights(sampler, study), expected)


@pytest.mark.parametrize("make", [make_ppo, make_evolution])
@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("interruptions", [(1, 2, 3, 0, 9), (17, 3)])
def test_interrupted_with_anything_in_flight_it_ends_as_without(
    tmp_path: Path, make: Make, lag: int, checkpointed: bool, interruptions: tuple[int, ...]
) -> None:
    whole = open_study(tmp_path / "whole.log", make(lag, None))
    fly(whole, random.Random(0))
    checkpoint = tmp_path / "controller.safetensors" if checkpointed else None
    order = random.Random(1)
    for tells in interruptions:
        with pytest.raises(Killed):
            fly(open_study(tmp_path / "study.log", make(lag, checkpoint)), order, tells=tells)
    sampler = make(lag, checkpoint)
    study = open_study(tmp_path / "study.log", sampler)
    fly(study, order)
    assert sequence(study) == sequence(whole)
    if isinstance(sampler, PPOSampler):
        assert_same(weights(sampler, study), weights(make_ppo(lag), whole))


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_search_that_was_extended_is_the_longer_one(
    tmp_path: Path, lag: int, checkpointed: bool
) -> None:
    """At its end a search learns from all of its batches, which the trials that follow may not follow from."""
    whole = open_study(tmp_path / "whole.log", make_ppo(lag))
    fly(whole, random.Random(0), trials=40)
    checkpoint = tmp_path / "controller.safetensors" if checkpointed else None
    for trials in (16, 24, 40):
        sampler = make_ppo(lag, checkpoint)
        study = open_study(tmp_path / "study.log", sampler)
        fly(study, random.Random(2), trials=trials)
        assert sampler.catch_up(study) == trials // BATCH
    assert sequence(study) == sequence(whole)
    assert_same(weights(sampler, study), weights(make_ppo(lag), whole))


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_policies_are_those_of_a_naive_search_that_keeps_them_all(
    tmp_path: Path, lag: int
) -> None:
    study = open_study(tmp_path / "study.log", make_ppo(lag))
    fly(study, random.Random(3))
    found = make_ppo(lag)
    learned = found.history(study)
    trials = study.get_trials(deepcopy=False)
    naive = PPO([len(d.choices) for d in DECISIONS], settings=SETTINGS, seed=5)
    policies = [copy.deepcopy(naive.controller)]
    for batch in range(TRIALS // BATCH):
        sampled_with = policies[max(0, batch - lag)]
        known = learned[: max(0, batch - lag) * BATCH]
        met = {observation.tokens for observation in known if observation is not None}
        for number in range(batch * BATCH, (batch + 1) * BATCH):
            rng = found.trial_rng(number)
            tokens = sampled_with.sample(rng)
            for redraw in range(1, 1 + SETTINGS.redraws):
                if tokens not in met:
                    break
                one = random.Random(rng.getrandbits(64))
                (tokens,) = sampled_with.sample_hot([one], [SETTINGS.heat**redraw])
            assert tokens == tokens_of(trials[number], DECISIONS)
            met.add(tokens)
        observed = [o for o in learned[batch * BATCH : (batch + 1) * BATCH] if o is not None]
        naive._update(
            torch.tensor([o.tokens for o in observed]),
            torch.tensor([o.reward for o in observed], dtype=torch.float64),
            sampled_with,
        )
        policies.append(copy.deepcopy(naive.controller))
    found.catch_up(study)
    expected = dict(naive.controller.named_parameters())
    for name, parameter in found.ppo.controller.named_parameters():
        assert torch.equal(parameter, expected[name])


def test_only_the_policies_that_can_be_needed_are_kept() -> None:
    ppo = PPO([3, 2], settings=SETTINGS, seed=0, lag=2)
    for _ in range(5):
        ppo.update([(0, 1), (2, 0)], [0.1, 0.9])
    assert {name.split(".")[1] for name in ppo.tensors() if name.startswith("earlier")} == {
        "1",
        "2",
    }
    ppo.policy(3)
    with pytest.raises(ValueError, match="last 2 updates are kept"):
        ppo.policy(2)


def test_a_lag_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 batches or more, not -1"):
        make_ppo(-1)


@pytest.mark.parametrize("make", [make_ppo, make_evolution])
@pytest.mark.parametrize("url", ["", "sqlite"])
def test_a_trial_added_at_once_is_the_one_that_optuna_asks_for(
    make: Make, url: str, tmp_path: Path
) -> None:
    def study_of(name: str) -> optuna.Study:
        storage = (
            database_storage(f"sqlite:///{tmp_path / name}")
            if url
            else journal_storage(tmp_path / name)
        )
        return optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["maximize", "minimize"],
            sampler=make(1, None),
        )

    asked, added = study_of("asked"), study_of("added")
    distributions = distributions_of(DECISIONS)
    for number in range(3 * BATCH):
        trial = asked.ask(fixed_distributions=dict(distributions))
        sampler = added.sampler
        assert isinstance(sampler, BatchSampler)
        other = optuna.Trial(added, sampler.create_trial(added, number))
        assert (trial.number, other.number) == (number, number)
        for study, one in ((asked, trial), (added, other)):
            assert one.params == trial.params
            for name, distribution in distributions.items():
                assert one.suggest_categorical(name, distribution.choices) == trial.params[name]
            tokens = tokens_of(study.trials[number], DECISIONS)
            assert tokens is not None
            study.tell(one, (sum(tokens) / 100, 80.0 + tokens[0]))
    for first, second in zip(asked.trials, added.trials, strict=True):
        for name in (
            "number",
            "state",
            "params",
            "distributions",
            "values",
            "user_attrs",
            "system_attrs",
        ):
            assert getattr(first, name) == getattr(second, name), name
        assert second.datetime_start is not None and second.duration is not None
