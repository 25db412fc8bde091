"""The sample-evaluate-update loop (paper, "Search Algorithm"), as ask and tell on an Optuna study.

Trials go in batches by number: a batch is asked, its new architectures are evaluated, each trial is told as soon
as its evaluation is there, and the sampler learns once the batch is full. All state is in the study, so going on
after a `kill -9` is the same as starting: trials that were running are taken up again under their own numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_mnas.search.evaluation import Evaluation, Evaluator
from tvm_mnas.search.run import (
    EVALUATION_ATTRIBUTE,
    REPEATS_ATTRIBUTE,
    RunDirectory,
    TrialRecord,
    read_evaluation,
)

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import CategoricalDistribution

    from tvm_mnas.space.architecture import Architecture
    from tvm_mnas.space.space import SearchSpace


@dataclass(frozen=True, slots=True)
class _Known:
    """An architecture met before: the trial that met it first, and what was found."""

    number: int
    evaluation: Evaluation


def run_trials(
    run: RunDirectory,
    space: SearchSpace,
    study: optuna.Study,
    evaluator: Evaluator,
    *,
    on_trial: Callable[[TrialRecord], None] = lambda record: None,
) -> None:
    """Bring `study` to the number of finished trials that the run's configuration asks for.

    Each architecture is evaluated once; a trial that meets it again gets the same evaluation. `on_trial` is
    called for each trial that finishes here.

    Raises:
        DeviceError: if the device stays lost; what was finished is kept.
        RunError: if the study holds something that cannot be read.
    """
    from tvm_mnas.search.sampler import PPOSampler, distributions_of

    distributions = distributions_of(space.decisions)
    known: dict[str, _Known] = {}
    for trial in study.get_trials(deepcopy=False):
        evaluation = read_evaluation(trial, run.path)
        if evaluation is not None:
            known.setdefault(evaluation.architecture.id, _Known(trial.number, evaluation))
    config = run.config
    for first in range(0, config.trials, config.batch):
        numbers = range(first, min(first + config.batch, config.trials))
        pending = _pending_trials(study, numbers, space, distributions)
        batch = _Batch(run, study, pending, known, on_trial)
        batch.tell_known()
        fresh = batch.unknown()
        for index, evaluation in evaluator.evaluate(fresh):
            batch.learn(fresh[index], evaluation)
    if isinstance(study.sampler, PPOSampler):
        # The last batch teaches too: whoever extends the search starts from there.
        study.sampler.catch_up(study)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The trials of one batch that are not finished yet, each with its architecture."""

    run: RunDirectory
    study: optuna.Study
    pending: list[tuple[optuna.Trial, Architecture]]
    known: dict[str, _Known]
    on_trial: Callable[[TrialRecord], None]

    def unknown(self) -> list[Architecture]:
        """The architectures to evaluate, each once, in the order of their trials."""
        fresh = {a.id: a for _, a in self.pending if a.id not in self.known}
        return list(fresh.values())

    def tell_known(self) -> None:
        """Finish the trials whose architecture was evaluated before."""
        for trial, architecture in self.pending:
            if architecture.id in self.known:
                self._finish(trial, self.known[architecture.id])

    def learn(self, architecture: Architecture, evaluation: Evaluation) -> None:
        """Finish every trial of this architecture with `evaluation`."""
        twins = [trial for trial, other in self.pending if other.id == architecture.id]
        entry = _Known(twins[0].number, evaluation)
        self.known[architecture.id] = entry
        for trial in twins:
            self._finish(trial, entry)

    def _finish(self, trial: optuna.Trial, entry: _Known) -> None:
        import optuna

        evaluation = entry.evaluation
        repeats = entry.number if entry.number != trial.number else None
        trial.set_user_attr(EVALUATION_ATTRIBUTE, evaluation.to_json())
        if repeats is not None:
            trial.set_user_attr(REPEATS_ATTRIBUTE, repeats)
        objectives = evaluation.objectives
        if objectives is None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, objectives)
        reward = None if objectives is None else self.run.reward(*objectives)
        self.on_trial(TrialRecord(trial.number, evaluation, reward, repeats))


def _pending_trials(
    study: optuna.Study,
    numbers: range,
    space: SearchSpace,
    distributions: dict[str, CategoricalDistribution],
) -> list[tuple[optuna.Trial, Architecture]]:
    import optuna

    existing = study.get_trials(deepcopy=False)
    pending: list[tuple[optuna.Trial, Architecture]] = []
    for number in numbers:
        if number < len(existing):
            if existing[number].state.is_finished():
                continue
            # A process that was killed left it; its parameters are stored, or are sampled again alike.
            trial = optuna.Trial(study, existing[number]._trial_id)
            for name, distribution in distributions.items():
                trial.suggest_categorical(name, distribution.choices)
        else:
            trial = study.ask(fixed_distributions=dict(distributions))
        tokens = [
            decision.choices.index(trial.params[decision.name]) for decision in space.decisions
        ]
        pending.append((trial, space.decode(tokens)))
    return pending
