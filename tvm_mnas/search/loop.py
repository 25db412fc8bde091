"""The sample-evaluate-update loop (paper, "Search Algorithm"), as ask and tell on an Optuna study.

Trials go in batches by number. Trial n is asked once all batches are finished that the sampler lets it follow from:
those up to `lag` before its own, so that up to `lag` + 1 batches are in flight. Each trial is told as soon as its
evaluation is there. A candidate that fails gets a second attempt first: what fails twice is its own fault, and teaches
the sampler as such. All state is in the study, so going on after a `kill -9` is the same as starting: trials that were
running are taken up again under their own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.results import (
    CandidateSource,
    Evaluation,
    Evaluator,
    Observer,
    StreamEvaluator,
)
from tvm_mnas.search.run import (
    REPEATS_ATTRIBUTE,
    SPACE_ATTRIBUTE,
    RunDirectory,
    TrialRecord,
)
from tvm_mnas.search.study.compact import EVALUATION_ATTRIBUTE, Packer, read_evaluation

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from tvm_mnas.space.candidate import Candidate
    from tvm_mnas.space.catalogue import Space


class SearchObserver(Observer, Protocol):
    """Watches a whole search."""

    def trial(self, record: TrialRecord) -> None:
        """A trial finished."""


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
    `on_trial` is called for each trial that finishes here, `on_batch` whenever a batch and all before it are finished.

    Raises:
        DeviceError: if the device stays lost; what was finished is kept.
        RunError: if the study holds something that cannot be read, or is of another space.
    """
    from tvm_mnas.search.algorithms.sampler import PPOSampler

    _check_space(run, space, study)
    flight = _Flight(run, space, study, on_trial, on_batch)
    flight.ask()
    for candidate, evaluation in _stream(evaluator, flight):
        flight.land(candidate, evaluation)
        flight.ask()
    if left := flight.unfinished():
        raise RunError(
            f"an evaluator evaluates every candidate that it is given, and {left} was left "
            f"out; `tvm-mnas search --resume {run.path}` tries it again"
        )
    if isinstance(study.sampler, PPOSampler):
        # The last batch teaches too: whoever extends the search starts from there.
        study.sampler.catch_up(study)


def _stream(
    evaluator: Evaluator, source: CandidateSource
) -> Iterator[tuple[Candidate, Evaluation]]:
    if isinstance(evaluator, StreamEvaluator):
        yield from evaluator.stream(source)
        return
    while candidates := source.take():
        for index, evaluation in evaluator.evaluate(candidates):
            yield candidates[index], evaluation


class _Flight:
    """The trials that are asked and not finished yet, and the candidates that wait to be evaluated for them."""

    def __init__(
        self,
        run: RunDirectory,
        space: Space,
        study: optuna.Study,
        on_trial: Callable[[TrialRecord], None],
        on_batch: Callable[[], None],
    ) -> None:
        from tvm_mnas.search.algorithms.batches import distributions_of

        self._run, self._space, self._study = run, space, study
        self._on_trial, self._on_batch = on_trial, on_batch
        self._distributions = distributions_of(space.decisions)
        self._packer = Packer(self._distributions)
        self._existing = study.get_trials(deepcopy=False)
        # Numbers alone: the evaluations of a long search are large, and in its trials.
        self._known: dict[str, int] = {}
        self._settled: list[FrozenTrial] = []
        self._recent: dict[int, Evaluation] = {}
        for trial in self._existing:
            evaluation = read_evaluation(trial, run.path)
            if evaluation is not None:
                self._known.setdefault(evaluation.architecture.id, trial.number)
        self._packer.pack(self._existing)
        self._asked = 0
        self._batches = 0
        self._finished: set[int] = set()
        self._flying: dict[str, list[optuna.Trial]] = {}
        self._failed: dict[str, Evaluation] = {}
        self._waiting: list[Candidate] = []

    def take(self, most: int | None = None) -> list[Candidate]:
        """Return the candidates that wait, `most` of them at most; none means that the next result may bring some."""
        count = len(self._waiting) if most is None else most
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def ask(self) -> None:
        """Ask for every trial that may be asked now; those whose architecture is known are finished at once."""
        config = self._run.config
        while self._asked < min(config.trials, (self._batches + 1 + config.lag) * config.batch):
            number = self._asked
            self._asked += 1
            if number < len(self._existing) and self._existing[number].state.is_finished():
                self._count(number)
                continue
            trial, candidate = self._ask(number)
            known = self._known.get(candidate.id)
            if known is not None:
                self._finish(trial, known, self._evaluation_of(known))
            elif candidate.id in self._flying:
                self._flying[candidate.id].append(trial)
            else:
                self._flying[candidate.id] = [trial]
                self._waiting.append(candidate)

    def land(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Finish every trial of `candidate`, or have it evaluated a second time if that failed."""
        first = self._failed.pop(candidate.id, None)
        if first is not None:
            evaluation = replace(evaluation, effort=first.effort.plus(evaluation.effort))
        elif evaluation.failure is not None:
            self._failed[candidate.id] = evaluation
            self._waiting.append(candidate)
            return
        trials = self._flying.pop(candidate.id)
        first_number = trials[0].number
        self._known[candidate.id] = first_number
        for trial in trials:
            self._finish(trial, first_number, evaluation)

    def unfinished(self) -> str | None:
        """Return the id of a candidate that was asked for and not evaluated, if there is one."""
        return next(iter(self._flying), None)

    def _ask(self, number: int) -> tuple[optuna.Trial, Candidate]:
        import optuna

        from tvm_mnas.search.algorithms.batches import BatchSampler

        sampler = self._study.sampler
        if number < len(self._existing):
            # A process that was killed left it; its parameters are stored, or are sampled again alike.
            trial = optuna.Trial(self._study, self._existing[number]._trial_id)
            for name, distribution in self._distributions.items():
                trial.suggest_categorical(name, distribution.choices)
        elif isinstance(sampler, BatchSampler):
            trial = optuna.Trial(self._study, sampler.create_trial(self._study, number))
        else:
            trial = self._study.ask(fixed_distributions=dict(self._distributions))
        # Once: Optuna copies them each time.
        params = trial.params
        tokens = [
            decision.choices.index(params[decision.name]) for decision in self._space.decisions
        ]
        return trial, self._space.decode(tokens)

    def _evaluation_of(self, number: int) -> Evaluation:
        if number < len(self._settled):
            trial = self._settled[number]
        elif number in self._recent:
            return self._recent[number]
        else:
            trial = self._existing[number]
        evaluation = read_evaluation(trial, self._run.path)
        assert evaluation is not None
        return evaluation

    def _finish(self, trial: optuna.Trial, first: int, evaluation: Evaluation) -> None:
        import optuna

        from tvm_mnas.search.algorithms.batches import CANDIDATE_FAULT

        repeats = first if first != trial.number else None
        trial.set_user_attr(EVALUATION_ATTRIBUTE, evaluation.to_json())
        if repeats is not None:
            trial.set_user_attr(REPEATS_ATTRIBUTE, repeats)
        objectives = evaluation.objectives
        if objectives is None:
            trial.set_user_attr(CANDIDATE_FAULT, True)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, objectives)
        if repeats is None:
            self._recent[trial.number] = evaluation
        reward = None if objectives is None else self._run.reward(*objectives)
        self._on_trial(TrialRecord(trial.number, evaluation, reward, repeats))
        self._count(trial.number, here=True)

    def _count(self, number: int, *, here: bool = False) -> None:
        """Take note that a trial is finished, and of the batches that are so, with all before them."""
        self._finished.add(number)
        batch = self._run.config.batch
        while True:
            numbers = range(self._batches * batch, (self._batches + 1) * batch)
            if not all(one in self._finished for one in numbers):
                return
            self._finished.difference_update(numbers)
            self._batches += 1
            # Once a batch: a storage makes a list of all trials each time. What an earlier process finished is known.
            trials = self._study.get_trials(deepcopy=False) if here else self._existing
            settled = trials[numbers.start : numbers.stop]
            self._packer.pack(settled)
            self._settled += settled
            for one in numbers:
                self._recent.pop(one, None)
            if here:
                self._on_batch()


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
