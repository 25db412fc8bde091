"""The samplers in Optuna studies: exact resume, then everything a study may do to them."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tvm_mnas.errors import CandidateError, ConfigError
from tvm_mnas.search.algorithms.batches import (
    CANDIDATE_FAULT,
    BatchSampler,
    Observation,
    distributions_of,
    tokens_of,
)
from tvm_mnas.search.algorithms.evolution import RegularizedEvolutionSampler, UniformSampler
from tvm_mnas.search.algorithms.ppo import PPOSettings
from tvm_mnas.search.algorithms.sampler import PPOSampler
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.files import load_space
from tvm_mnas.space.space import Decision
from tvm_mnas.testing import SyntheticEvaluator

DECISIONS = tuple(
    Decision(f"block{number}.{name}", choices)
    for number in (1, 2)
    for name, choices in (
        ("conv_op", ("conv", "sepconv", "mbconv3")),
        ("kernel_size", (3, 5)),
        ("filters", (16, 24, 32)),
    )
)
REWARD = Reward(80.0)
# About one candidate in four fails, so that failed trials are part of every comparison.
EVALUATOR = SyntheticEvaluator(DECISIONS, seed=1, failure_rate=0.25)
BATCH = 4
TRIALS = 22
SETTINGS = PPOSettings(hidden_size=8, epochs=2)

MakeSampler = Callable[[], BatchSampler]


@pytest.fixture(autouse=True)
def _quiet_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Here processes die, the power doesn't: what is written stays written, and sooner.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """The process is gone; nothing of it is left but the journal and the checkpoint."""


def open_study(path: Path, sampler: BatchSampler) -> optuna.Study:
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="search",
        directions=["maximize", "minimize"],
        sampler=sampler,
        load_if_exists=True,
    )


def search(
    study: optuna.Study,
    *,
    trials: int = TRIALS,
    shuffle: random.Random | None = None,
    tells: int | None = None,
    parameters: int | None = None,
) -> None:
    """Finish `trials` trials batch by batch, as `search/loop.py` does.

    `shuffle` tells a batch in another order. Raises `Killed` after `tells` tells, or in the middle
    of the first trial asked, once it has `parameters` of its parameters.
    """
    distributions = distributions_of(DECISIONS)
    told = 0
    for first in range(0, trials, BATCH):
        pending = []
        for number in range(first, min(first + BATCH, trials)):
            existing = study.get_trials(deepcopy=False)
            if number < len(existing) and existing[number].state.is_finished():
                continue
            left = number < len(existing) and existing[number].state == TrialState.RUNNING
            trial = optuna.Trial(study, existing[number]._trial_id) if left else study.ask()
            for count, (name, distribution) in enumerate(distributions.items()):
                if parameters == count:
                    raise Killed
                trial.suggest_categorical(name, distribution.choices)
            pending.append(trial)
        if shuffle is not None:
            shuffle.shuffle(pending)
        for trial in pending:
            if told == tells:
                raise Killed
            told += 1
            tokens = tokens_of(study.get_trials(deepcopy=False)[trial.number], DECISIONS)
            assert tokens is not None
            try:
                result = EVALUATOR.evaluate(tokens)
            except CandidateError:
                trial.set_user_attr(CANDIDATE_FAULT, True)
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [result.accuracy, result.latency_ms])


def sequence(study: optuna.Study) -> list[tuple[object, ...]]:
    return [
        (trial.number, trial.state, trial.values, tuple(trial.params.items()))
        for trial in study.get_trials(deepcopy=False)
    ]


def weights(sampler: PPOSampler, study: optuna.Study) -> dict[str, torch.Tensor]:
    sampler.catch_up(study)
    return {name: tensor.clone() for name, tensor in sampler.ppo.tensors().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def ppo_sampler(checkpoint: Path | None = None) -> PPOSampler:
    return PPOSampler(
        DECISIONS,
        reward=REWARD,
        seed=5,
        batch_size=BATCH,
        settings=SETTINGS,
        checkpoint=checkpoint,
    )


def evolution_sampler() -> RegularizedEvolutionSampler:
    return RegularizedEvolutionSampler(
        DECISIONS, reward=REWARD, seed=5, batch_size=BATCH, population=6, tournament=3
    )


def uniform_sampler() -> UniformSampler:
    return UniformSampler(DECISIONS, reward=REWARD, seed=5)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[tuple[object, ...]], dict[str, torch.Tensor]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = ppo_sampler()
    study = open_study(tmp_path_factory.mktemp("whole") / "study.log", sampler)
    search(study)
    return sequence(study), weights(sampler, study)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    "interruptions",
    [
        # After so many tells: between batches, inside a batch, again and again, at once.
        (4,),
        (6,),
        (1, 2, 3, 1),
        (0, 9, 0, 11),
        (21,),
    ],
)
def test_an_interrupted_ppo_search_equals_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path,
    uninterrupted: tuple[list[tuple[object, ...]], dict[str, torch.Tensor]],
    interruptions: Sequence[int],
    shuffled: bool,
    checkpointed: bool,
) -> None:
    checkpoint = tmp_path / "controller.safetensors" if checkpointed else None
    order = random.Random(1) if shuffled else None
    for tells in interruptions:
        study = open_study(tmp_path / "study.log", ppo_sampler(checkpoint))
        with pytest.raises(Killed):
            search(study, tells=tells, shuffle=order)
    sampler = ppo_sampler(checkpoint)
    study = open_study(tmp_path / "study.log", sampler)
    search(study, shuffle=order)
    assert sequence(study) == uninterrupted[0]
    assert_same(weights(sampler, study), uninterrupted[1])
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}


@pytest.mark.parametrize("make", [ppo_sampler, evolution_sampler, uniform_sampler])
@pytest.mark.parametrize("parameters", [0, 1, 4])
def test_a_trial_killed_between_two_parameters_gets_the_ones_it_would_have_got(
    tmp_path: Path, make: MakeSampler, parameters: int
) -> None:
    whole = open_study(tmp_path / "whole.log", make())
    search(whole)
    for trials in (8, 13):
        search(open_study(tmp_path / "study.log", make()), trials=trials)
        with pytest.raises(Killed):
            search(open_study(tmp_path / "study.log", make()), parameters=parameters)
    study = open_study(tmp_path / "study.log", make())
    search(study)
    assert sequence(study) == sequence(whole)


@pytest.mark.parametrize("make", [evolution_sampler, uniform_sampler])
@pytest.mark.parametrize("interruptions", [(4,), (6, 5), (1, 2, 3, 1, 12)])
def test_interrupted_evolution_and_random_search_equal_the_uninterrupted_one(
    tmp_path: Path, make: MakeSampler, interruptions: Sequence[int]
) -> None:
    whole = open_study(tmp_path / "whole.log", make())
    search(whole)
    order = random.Random(2)
    for tells in interruptions:
        with pytest.raises(Killed):
            search(open_study(tmp_path / "study.log", make()), tells=tells, shuffle=order)
    study = open_study(tmp_path / "study.log", make())
    search(study, shuffle=order)
    assert sequence(study) == sequence(whole)


def test_another_seed_gives_another_search(tmp_path: Path) -> None:
    first = open_study(tmp_path / "a.log", UniformSampler(DECISIONS, seed=1, reward=REWARD))
    second = open_study(tmp_path / "b.log", UniformSampler(DECISIONS, seed=2, reward=REWARD))
    search(first, trials=8)
    search(second, trials=8)
    assert sequence(first) != sequence(second)


def test_a_checkpoint_spares_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "controller.safetensors"
    sampler = ppo_sampler(checkpoint)
    study = open_study(tmp_path / "study.log", sampler)
    search(study)
    expected = weights(sampler, study)

    def no_update(self: object, *arguments: object) -> None:
        raise AssertionError("the checkpoint holds every update")

    monkeypatch.setattr("tvm_mnas.search.algorithms.ppo.PPO.update", no_update)
    again = ppo_sampler(checkpoint)
    assert again.catch_up(open_study(tmp_path / "study.log", again)) == TRIALS // BATCH
    assert_same({n: t.clone() for n, t in again.ppo.tensors().items()}, expected)


def test_an_old_checkpoint_is_a_start_for_the_replay(tmp_path: Path) -> None:
    checkpoint = tmp_path / "controller.safetensors"
    sampler = ppo_sampler(checkpoint)
    study = open_study(tmp_path / "study.log", sampler)
    search(study, trials=12)
    sampler.catch_up(study)
    old = checkpoint.read_bytes()
    search(study)
    expected = weights(sampler, study)
    assert checkpoint.read_bytes() != old
    checkpoint.write_bytes(old)
    again = ppo_sampler(checkpoint)
    assert_same(weights(again, open_study(tmp_path / "study.log", again)), expected)


def _torn(checkpoint: Path, directory: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])


def _of_another_seed(checkpoint: Path, directory: Path) -> None:
    checkpoint.unlink()
    other = PPOSampler(
        DECISIONS,
        reward=REWARD,
        seed=6,
        batch_size=BATCH,
        settings=SETTINGS,
        checkpoint=checkpoint,
    )
    study = open_study(directory / "other.log", other)
    search(study)
    other.catch_up(study)


def _of_another_history(checkpoint: Path, directory: Path) -> None:
    checkpoint.unlink()
    other = ppo_sampler(checkpoint)
    study = open_study(directory / "other.log", other)
    study.enqueue_trial({decision.name: decision.choices[0] for decision in DECISIONS})
    search(study)
    other.catch_up(study)


def _of_a_longer_search(checkpoint: Path, directory: Path) -> None:
    other = ppo_sampler(checkpoint)
    study = open_study(directory / "study.log", other)
    search(study, trials=2 * TRIALS)
    other.catch_up(study)
    (directory / "study.log").unlink()
    search(open_study(directory / "study.log", ppo_sampler()))


@pytest.mark.parametrize(
    "spoil", [_torn, _of_another_seed, _of_another_history, _of_a_longer_search]
)
def test_a_checkpoint_that_does_not_fit_is_replayed_from_the_study(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    uninterrupted: tuple[list[tuple[object, ...]], dict[str, torch.Tensor]],
    spoil: Callable[[Path, Path], None],
) -> None:
    checkpoint = tmp_path / "controller.safetensors"
    sampler = ppo_sampler(checkpoint)
    study = open_study(tmp_path / "study.log", sampler)
    search(study)
    sampler.catch_up(study)
    spoil(checkpoint, tmp_path)
    again = ppo_sampler(checkpoint)
    with caplog.at_level(logging.WARNING):
        assert_same(weights(again, open_study(tmp_path / "study.log", again)), uninterrupted[1])
    assert "replayed from the study" in caplog.text


def test_one_objective_is_the_reward_itself() -> None:
    """The same search as with two objectives, also where the negative reward is minimized."""

    def run(directions: Sequence[str], values: Callable[[float, float], list[float]]) -> object:
        reward = REWARD if len(directions) == 2 else None
        sampler = PPOSampler(DECISIONS, reward=reward, seed=0, batch_size=BATCH, settings=SETTINGS)
        study = optuna.create_study(directions=list(directions), sampler=sampler)
        for _ in range(4):
            for trial in [study.ask(dict(distributions_of(DECISIONS))) for _ in range(BATCH)]:
                tokens = [d.choices.index(trial.params[d.name]) for d in DECISIONS]
                result = SyntheticEvaluator(DECISIONS).evaluate(tokens)
                study.tell(trial, values(result.accuracy, result.latency_ms))
        return [trial.params for trial in study.trials], sampler.catch_up(study)

    both = run(["maximize", "minimize"], lambda a, ms: [a, ms])
    assert both == run(["maximize"], lambda a, ms: [REWARD(a, ms)])
    assert both == run(["minimize"], lambda a, ms: [-REWARD(a, ms)])


def test_it_works_in_a_plain_study_with_parameters_of_its_own() -> None:
    sampler = PPOSampler(DECISIONS, seed=0, batch_size=BATCH, settings=SETTINGS)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        wide = sum(trial.suggest_categorical(d.name, d.choices) == d.choices[-1] for d in DECISIONS)
        return wide - abs(trial.suggest_float("learning_rate", 0.0, 1.0) - 0.5)

    study.optimize(objective, n_trials=10)
    assert sampler.catch_up(study) == 2
    rates = {trial.params["learning_rate"] for trial in study.trials}
    assert len(rates) == 10
    assert sampler.last_update is not None
    assert sampler.last_update.samples == BATCH


def test_threads_may_share_a_study() -> None:
    sampler = PPOSampler(DECISIONS, seed=0, batch_size=BATCH, settings=SETTINGS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(
        lambda trial: float(
            sum(d.choices.index(trial.suggest_categorical(d.name, d.choices)) for d in DECISIONS)
        ),
        n_trials=24,
        n_jobs=3,
    )
    assert sampler.catch_up(study) == 6
    replayed = PPOSampler(DECISIONS, seed=0, batch_size=BATCH, settings=SETTINGS)
    # However the threads interleaved, the controller is a function of what they left in the study.
    assert_same(weights(replayed, study), weights(sampler, study))


def test_a_trial_of_an_unfinished_batch_waits_for_nothing() -> None:
    """Asked ahead, trials come from the newest controller whose batches are complete."""
    sampler = PPOSampler(DECISIONS, seed=0, batch_size=2, settings=SETTINGS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ahead = [study.ask(dict(distributions_of(DECISIONS))) for _ in range(6)]
    assert sampler.ppo.updates_done == 0
    for number in (2, 3, 4, 5, 1):
        study.tell(ahead[number], float(number))
        assert sampler.catch_up(study) == 0
    study.tell(ahead[0], 0.5)
    assert sampler.catch_up(study) == 3


def test_a_trial_that_never_ends_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sampler = PPOSampler(DECISIONS, seed=0, batch_size=1, settings=SETTINGS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.ask()
    with caplog.at_level(logging.WARNING, logger="tvm_mnas.search.algorithms.sampler"):
        for _ in range(8):
            study.tell(study.ask(dict(distributions_of(DECISIONS))), 1.0)
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == ["trial 0"]
    assert "study.tell(0, state=optuna.trial.TrialState.FAIL)" in caplog.text


def test_failed_pruned_and_foreign_trials_count_but_teach_nothing() -> None:
    sampler = PPOSampler(DECISIONS, reward=REWARD, seed=0, batch_size=6, settings=SETTINGS)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    distributions = distributions_of(DECISIONS)
    study.enqueue_trial({decision.name: decision.choices[-1] for decision in DECISIONS})
    enqueued = study.ask(dict(distributions))
    study.tell(enqueued, [0.7, 60.0])
    study.tell(study.ask(dict(distributions)), state=TrialState.FAIL)
    study.tell(study.ask(dict(distributions)), state=TrialState.PRUNED)
    study.add_trial(
        optuna.trial.create_trial(
            params={"x": 1.0},
            distributions={"x": optuna.distributions.FloatDistribution(0.0, 2.0)},
            values=[0.9, 10.0],
        )
    )
    foreign = {**distributions, "block1.filters": optuna.distributions.IntDistribution(1, 99)}
    study.add_trial(
        optuna.trial.create_trial(
            params={d.name: d.choices[0] for d in DECISIONS} | {"block1.filters": 17},
            distributions=foreign,
            values=[0.9, 10.0],
        )
    )
    study.tell(study.ask(dict(distributions)), [0.6, 70.0])
    assert sampler.catch_up(study) == 1
    taught = sampler.history(study)
    assert [observation is not None for observation in taught] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert taught[0] is not None
    assert taught[0].tokens == tuple(len(decision.choices) - 1 for decision in DECISIONS)
    assert taught[0].reward == REWARD(0.7, 60.0)
    assert sampler.last_update is not None
    assert sampler.last_update.samples == 2


def test_a_candidate_that_failed_by_its_own_fault_teaches_the_worst_known_reward() -> None:
    """The lowest of its batch, else the lowest so far, else nothing."""
    sampler = ppo_sampler()
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    fault, lost = "candidate", "device"
    batches: list[list[float | str]] = [
        [fault, fault, lost, fault],
        [0.5, fault, 0.3, lost],
        [0.6, 0.4, fault, fault],
        [fault, lost, fault, fault],
    ]
    for batch in batches:
        for outcome in batch:
            trial = study.ask(fixed_distributions=dict(distributions_of(DECISIONS)))
            if isinstance(outcome, float):
                study.tell(trial, [outcome, 80.0])
                continue
            trial.set_user_attr(CANDIDATE_FAULT, outcome == fault)
            study.tell(trial, state=TrialState.FAIL)
    taught = [
        None if observation is None else (observation.reward, observation.failed)
        for observation in sampler.history(study)
    ]
    assert taught == [
        *[None, None, None, None],
        *[(0.5, False), (0.3, True), (0.3, False), None],
        *[(0.6, False), (0.4, False), (0.4, True), (0.4, True)],
        *[(0.3, True), None, (0.3, True), (0.3, True)],
    ]
    assert sampler.catch_up(study) == 4
    assert sampler.last_update is not None
    assert sampler.last_update.samples == 3


@pytest.mark.parametrize("seed", range(2))
def test_the_controller_turns_away_from_what_fails(seed: int) -> None:
    """Larger networks are more accurate and, beyond a limit below the target, fail."""
    decisions = load_space("mnasnet").decisions
    evaluator = SyntheticEvaluator(decisions, seed=seed)
    reward = Reward.hard(150.0)
    shares: dict[bool, float] = {}
    for told in (True, False):
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=PPOSampler(decisions, reward=reward, seed=seed, batch_size=16),
        )
        failed: list[bool] = []
        for _ in range(320):
            trial = study.ask(fixed_distributions=dict(distributions_of(decisions)))
            tokens = tokens_of(study.get_trials(deepcopy=False)[trial.number], decisions)
            assert tokens is not None
            result = evaluator.evaluate(tokens)
            failed.append(result.latency_ms > 105.0)
            if failed[-1]:
                trial.set_user_attr(CANDIDATE_FAULT, told)
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [result.accuracy, result.latency_ms])
        shares[told] = sum(failed[-96:]) / 96
    assert shares[True] < 0.2 < shares[False]


def test_a_value_that_is_no_accuracy_is_refused_as_it_is_told_and_teaches_nothing() -> None:
    sampler = PPOSampler(DECISIONS, reward=REWARD, seed=0, batch_size=1, settings=SETTINGS)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    with pytest.raises(ConfigError, match="percentage"):
        study.tell(study.ask(dict(distributions_of(DECISIONS))), [73.5, 60.0])
    assert sampler.history(study) == [None]
    study.tell(study.ask(dict(distributions_of(DECISIONS))), [0.735, 60.0])
    assert sampler.catch_up(study) == 2


@pytest.mark.parametrize(
    ("directions", "reward"),
    [
        (["maximize", "minimize"], None),
        (["maximize"], REWARD),
        (["maximize", "maximize"], REWARD),
        (["minimize", "maximize"], REWARD),
    ],
)
def test_a_study_with_other_objectives_is_refused(
    directions: list[str], reward: Reward | None
) -> None:
    sampler = PPOSampler(DECISIONS, reward=reward, seed=0, settings=SETTINGS)
    study = optuna.create_study(directions=directions, sampler=sampler)
    with pytest.raises(ConfigError, match=r"objective|directions"):
        study.ask(dict(distributions_of(DECISIONS)))


def test_one_sampler_may_go_from_study_to_study(tmp_path: Path) -> None:
    sampler = ppo_sampler()
    for name in ("first", "second"):
        study = optuna.create_study(
            study_name=name, directions=["maximize", "minimize"], sampler=sampler
        )
        search(study, trials=14)
        expected = open_study(tmp_path / f"{name}.log", ppo_sampler())
        search(expected, trials=14)
        assert sequence(study) == sequence(expected)


def test_parameters_are_categorical_with_the_real_choices() -> None:
    distributions = distributions_of(DECISIONS)
    assert list(distributions) == [decision.name for decision in DECISIONS]
    assert distributions["block2.filters"].choices == (16, 24, 32)
    sampler = UniformSampler(DECISIONS, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    trial = study.ask(dict(distributions))
    frozen = study.get_trials(deepcopy=False)[0]
    tokens = tokens_of(frozen, DECISIONS)
    assert tokens is not None
    assert trial.params == {
        d.name: d.choices[token] for d, token in zip(DECISIONS, tokens, strict=True)
    }
    assert tokens_of(frozen, [*DECISIONS, Decision("block3.filters", (8, 16))]) is None


def test_no_decisions_and_empty_batches_are_refused() -> None:
    with pytest.raises(ConfigError):
        UniformSampler((), seed=0)
    with pytest.raises(ConfigError, match="batch"):
        PPOSampler(DECISIONS, seed=0, batch_size=0)


def proposals(*, redraws: int, batches: int = 12) -> list[tuple[int, ...]]:
    """What a search proposes that is drawn to one corner of the space from the start."""
    settings = replace(SETTINGS, redraws=redraws, learning_rate=0.2)
    sampler = PPOSampler(DECISIONS, seed=0, batch_size=BATCH, settings=settings)
    history: list[Observation | None] = []
    for first in range(0, batches * BATCH, BATCH):
        batch = [sampler.propose(first + place, history) for place in range(BATCH)]
        history = history + [Observation(tokens, float(sum(tokens))) for tokens in batch]
    return [observation.tokens for observation in history if observation is not None]


def test_a_controller_that_made_up_its_mind_goes_on_to_new_candidates() -> None:
    as_in_the_paper, new = proposals(redraws=0), proposals(redraws=7)
    assert new[:BATCH] == as_in_the_paper[:BATCH], "nothing was met before"
    assert len(set(new)) > 1.5 * len(set(as_in_the_paper))
    # Still near what it prefers: what it proposes last is better than chance.
    chance = sum((len(d.choices) - 1) / 2 for d in DECISIONS)
    assert sum(sum(tokens) for tokens in new[-8:]) / 8 > chance


def test_a_space_that_is_all_known_still_has_proposals() -> None:
    one = (Decision("block1.kernel_size", (3, 5)),)
    sampler = PPOSampler(one, seed=0, batch_size=4, settings=SETTINGS)
    history: list[Observation | None] = [Observation((k,), 0.5 + k) for k in (0, 1, 0, 1)]
    assert {sampler.propose(number, history) for number in range(4, 8)} <= {(0,), (1,)}


def test_the_rate_goes_with_the_root_of_the_batch() -> None:
    assert PPOSettings.for_batches(16) == PPOSettings()
    assert PPOSettings.for_batches(4).learning_rate == PPOSettings().learning_rate / 2
    assert PPOSampler(DECISIONS, seed=0, batch_size=4).ppo.settings == PPOSettings.for_batches(4)
    for wrong in ({"redraws": -1}, {"heat": 0.9}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            PPOSettings(**wrong)  # type: ignore[arg-type]
