"""The door for search algorithms, and our samplers in a plain Optuna study.

The conventions are those that Optuna's documentation states for samplers: `ask` and `tell` as well as `optimize`, any
storage, several workers, trials that fail or are pruned or were enqueued, parameters out of nowhere, one sampler
in a study of one objective, reseeding, and a study that is loaded again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from tvm_mnas import PPOSampler, RegularizedEvolutionSampler, distributions_of
from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import ALGORITHMS
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler
from tvm_mnas.search.algorithms.ppo import PPOSettings
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision

DECISIONS = (
    Decision("width", (8, 16, 32)),
    Decision("kind", ("conv", "sepconv")),
    Decision("ratio", (0.0, 0.25)),
)
REQUEST = AlgorithmRequest(decisions=DECISIONS, reward=Reward(80.0), seed=3, batch_size=4)
Make = Callable[..., BaseSampler]


def make_ppo(seed: int = 3) -> BaseSampler:
    settings = PPOSettings(hidden_size=8, epochs=1)
    return PPOSampler(DECISIONS, seed=seed, batch_size=4, settings=settings)


def make_evolution(seed: int = 3) -> BaseSampler:
    return RegularizedEvolutionSampler(
        DECISIONS, seed=seed, batch_size=4, population=6, tournament=2
    )


def own_algorithm(request: AlgorithmRequest) -> BaseSampler:
    """Stand in for an algorithm of somebody else's."""
    return RandomSampler(seed=request.seed)


def no_algorithm(request: AlgorithmRequest) -> object:
    return "a sampler"


def suggest(trial: optuna.Trial) -> float:
    """Return a reward that the widest is best of; suggests as any Optuna objective does."""
    values = [trial.suggest_categorical(one.name, one.choices) for one in DECISIONS]
    return float(str(values[0])) + (values[1] == "conv")


each = pytest.mark.parametrize("make", [make_ppo, make_evolution], ids=["ppo", "evolution"])


@pytest.mark.parametrize("name", ALGORITHMS.shipped)
def test_what_ships_makes_a_sampler_of_the_request(name: str) -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=make_sampler(name, REQUEST)
    )
    for _ in range(6):
        trial = study.ask(dict[str, BaseDistribution](distributions_of(DECISIONS)))
        assert all(trial.params[one.name] in one.choices for one in DECISIONS)
        study.tell(trial, (0.5, 70.0))


def test_an_algorithm_of_ones_own_is_found_and_another_object_refused() -> None:
    assert isinstance(make_sampler(f"{__name__}:own_algorithm", REQUEST), RandomSampler)
    with pytest.raises(ConfigError, match="returns an Optuna sampler, and it returned str"):
        make_sampler(f"{__name__}:no_algorithm", REQUEST)
    with pytest.raises(ConfigError, match="unknown algorithm 'annealing': it is one of ppo"):
        make_sampler("annealing", REQUEST)


@each
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_optimize_samples_the_choices_themselves(make: Make, direction: str) -> None:
    study = optuna.create_study(direction=direction, sampler=make())
    study.optimize(suggest, n_trials=14)
    assert len(study.trials) == 14
    for trial in study.trials:
        assert set(trial.params) == {one.name for one in DECISIONS}
        for one in DECISIONS:
            value = trial.params[one.name]
            assert value in one.choices
            assert type(value) is type(one.choices[0])


@each
def test_workers_side_by_side_are_served(make: Make) -> None:
    study = optuna.create_study(direction="maximize", sampler=make())
    study.optimize(suggest, n_trials=16, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 16


@each
def test_trials_that_fail_are_pruned_or_enqueued_do_no_harm(make: Make) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = suggest(trial)
        if trial.number % 5 == 1:
            raise optuna.TrialPruned
        if trial.number % 5 == 2:
            raise ValueError("out of memory")
        return float("nan") if trial.number % 5 == 3 else value

    study = optuna.create_study(direction="maximize", sampler=make())
    study.enqueue_trial({"width": 32, "kind": "conv", "ratio": 0.0})
    study.optimize(objective, n_trials=15, catch=(ValueError,))
    states = {state: len(study.get_trials(states=(state,))) for state in TrialState}
    assert states[TrialState.PRUNED] == 3
    assert states[TrialState.FAIL] == 6
    assert states[TrialState.COMPLETE] == 6
    assert study.trials[0].params == {"width": 32, "kind": "conv", "ratio": 0.0}
    assert study.best_value == 33.0


@each
def test_a_parameter_that_is_no_decision_is_sampled_too(make: Make) -> None:
    def objective(trial: optuna.Trial) -> float:
        return suggest(trial) + trial.suggest_float("dropout", 0.0, 0.5)

    study = optuna.create_study(direction="maximize", sampler=make())
    study.optimize(objective, n_trials=9)
    rates = [trial.params["dropout"] for trial in study.trials]
    assert all(0.0 <= rate <= 0.5 for rate in rates)
    assert len(set(rates)) > 1
    assert study.trials[-1].distributions["dropout"] == FloatDistribution(0.0, 0.5)


@each
def test_a_study_that_is_loaded_again_goes_on_as_it_would_have(make: Make, tmp_path: Path) -> None:
    def params(study: optuna.Study) -> list[dict[str, object]]:
        return [trial.params for trial in study.trials]

    whole = optuna.create_study(direction="maximize", sampler=make())
    whole.optimize(suggest, n_trials=14)
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(
        storage=storage, study_name="s", direction="maximize", sampler=make()
    ).optimize(suggest, n_trials=6)
    again = optuna.load_study(study_name="s", storage=storage, sampler=make())
    again.optimize(suggest, n_trials=8)
    assert params(again) == params(whole)


@each
def test_the_trials_follow_from_the_seed(make: Make) -> None:
    runs = []
    for seed in (3, 3, 4):
        study = optuna.create_study(direction="maximize", sampler=make(seed))
        study.sampler.reseed_rng()
        study.optimize(suggest, n_trials=12)
        runs.append([trial.params for trial in study.trials])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
