"""The sample-evaluate-update loop (paper, "Search Algorithm"), as ask and tell on an Optuna study.

Trials go in batches by number: a batch is asked, its new architectures are evaluated, each trial is told as soon
as its evaluation is there, and the sampler learns once the batch is full. A candidate that fails gets a second
attempt first: what fails twice is its own fault, and teaches the sampler as such. All state is in the study, so going
on after a `kill -9` is the same as starting: trials that were running are taken up again under their own numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.results import Evaluation, Evaluator
from tvm_mnas.search.run import (
    EVALUATION_ATTRIBUTE,
    REPEATS_ATTRIBUTE,
    SPACE_ATTRIBUTE,
    RunDirectory,
    TrialRecord,
    read_evaluation,
)

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import CategoricalDistribution

    from tvm_mnas.space.candidate import Candidate
    from tvm_mnas.space.catalogue import Space


@dataclass(frozen=True, slots=True)
class _Known:
    """An architecture met before: the trial that met it first, and what was found."""

    number: int
    evaluation: Evaluation


def run_trials(
    run: RunDirectory,
    space: Space,
    study: optuna.Study,
    evaluator: Evaluator,
    *,
    on_trial: Callable[[TrialRecord], None] = lambda record: None,
    on_batch: Callable[[], None] = lambda: None,
) -> None:
    """Bring `study` to the number of finished trials that the run's configuration asks for.

    Each architecture is evaluated once, or twice if it fails; a trial that meets it again gets the same evaluation.
    `on_trial` is called for each trial that finishes here, `on_batch` after each batch.

    Raises:
        DeviceError: if the device stays lost; what was finished is kept.
        RunError: if the study holds something that cannot be read, or is of another space.
    """
    from tvm_mnas.search.algorithms.sampler import PPOSampler, distributions_of

    _check_space(run, space, study)
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
        failed: dict[str, Evaluation] = {}
        for index, evaluation in evaluator.evaluate(fresh):
            if evaluation.failure is None:
                batch.learn(fresh[index], evaluation)
            else:
                failed[fresh[index].id] = evaluation
        again = [candidate for candidate in fresh if candidate.id in failed]
        for index, evaluation in evaluator.evaluate(again) if again else ():
            effort = failed[again[index].id].effort.plus(evaluation.effort)
            batch.learn(again[index], replace(evaluation, effort=effort))
        if left := batch.unknown():
            raise RunError(
                f"an evaluator evaluates every candidate that it is given, and {left[0].id} was left "
                f"out; `tvm-mnas search --resume {run.path}` tries it again"
            )
        on_batch()
    if isinstance(study.sampler, PPOSampler):
        # The last batch teaches too: whoever extends the search starts from there.
        study.sampler.catch_up(study)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The trials of one batch that are not finished yet, each with its architecture."""

    run: RunDirectory
    study: optuna.Study
    pending: list[tuple[optuna.Trial, Candidate]]
    known: dict[str, _Known]
    on_trial: Callable[[TrialRecord], None]

    def unknown(self) -> list[Candidate]:
        """The architectures to evaluate, each once, in the order of their trials."""
        fresh = {a.id: a for _, a in self.pending if a.id not in self.known}
        return list(fresh.values())

    def tell_known(self) -> None:
        """Finish the trials whose architecture was evaluated before."""
        for trial, architecture in self.pending:
            if architecture.id in self.known:
                self._finish(trial, self.known[architecture.id])

    def learn(self, architecture: Candidate, evaluation: Evaluation) -> None:
        """Finish every trial of this architecture with `evaluation`."""
        twins = [trial for trial, other in self.pending if other.id == architecture.id]
        entry = _Known(twins[0].number, evaluation)
        self.known[architecture.id] = entry
        for trial in twins:
            self._finish(trial, entry)

    def _finish(self, trial: optuna.Trial, entry: _Known) -> None:
        import optuna

        from tvm_mnas.search.algorithms.sampler import CANDIDATE_FAULT

        evaluation = entry.evaluation
        repeats = entry.number if entry.number != trial.number else None
        trial.set_user_attr(EVALUATION_ATTRIBUTE, evaluation.to_json())
        if repeats is not None:
            trial.set_user_attr(REPEATS_ATTRIBUTE, repeats)
        objectives = evaluation.objectives
        if objectives is None:
            trial.set_user_attr(CANDIDATE_FAULT, True)
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, objectives)
        reward = None if objectives is None else self.run.reward(*objectives)
        self.on_trial(TrialRecord(trial.number, evaluation, reward, repeats))


def _check_space(run: RunDirectory, space: Space, study: optuna.Study) -> None:
    """Refuse to go on in another space: its file may have been edited since the run began."""
    stored = study.user_attrs.get(SPACE_ATTRIBUTE)
    if stored is None:
        study.set_user_attr(SPACE_ATTRIBUTE, space.fingerprint)
    elif stored != space.fingerprint:
        raise RunError(
            f"{run.path}: a run goes on in the space that it began in, and {run.config.space} has "
            f"changed since ({stored} is now {space.fingerprint}); restore it, or start a new search "
            f"with `tvm-mnas search`"
        )


def _pending_trials(
    study: optuna.Study,
    numbers: range,
    space: Space,
    distributions: dict[str, CategoricalDistribution],
) -> list[tuple[optuna.Trial, Candidate]]:
    import optuna

    existing = study.get_trials(deepcopy=False)
    pending: list[tuple[optuna.Trial, Candidate]] = []
    for number in numbers:
        state = existing[number].state if number < len(existing) else None
        if state is not None and state.is_finished():
            continue
        if state is optuna.trial.TrialState.RUNNING:
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
