"""A run directory: the one place where a search keeps its state, so that nothing is lost.

    runs/NAME/
      config.toml             what was asked for, resolved
      recipe.toml             how candidates are trained, resolved
      data.json               how many images the data had when the search began
      study.journal           every trial with its evaluation: an Optuna journal, appended to; or in a database
      controller.safetensors  the controller after the last update; a cache, rebuilt from the study if absent
      run.lock                held while a process works on the run
      logs/                   of tracker, device server and builders
      best/                   the exported network
      report/                 figures and page

The study is the only truth: a trial's user attribute `evaluation` holds all that is known of the candidate.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.config import SearchConfig, read_settings
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import ConfigError, RunError, TvmMnasError, raise_if_foreign
from tvm_mnas.evaluation.results import Evaluation
from tvm_mnas.evaluation.trainers import recipe_of
from tvm_mnas.files import atomic_write_text
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.study.compact import read_evaluation
from tvm_mnas.search.study.database import check_new_study, database_storage
from tvm_mnas.search.study.journal import damaged_journal, journal_storage, repair_journal
from tvm_mnas.search.study.lease import leased
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.recipe import Recipe, recipe_from

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

_LOGGER = logging.getLogger(__name__)
_RECIPE = "recipe.toml"
STUDY_NAME = "tvm-mnas"
_RENAMED = {"trials_per_kernel": "schedules_per_kernel"}
"""What the configuration of a run of version 0.1 calls a setting."""
SPACE_ATTRIBUTE = "space_fingerprint"
REPEATS_ATTRIBUTE = "repeats_trial"
_LATENCY_AGAIN = "latency_again:"
"""Begins the names of the study's attributes with the newest latency of a trial, which follows the colon."""
_REPLICATE = "replicate:"
"""Likewise, with the accuracy of a trial's candidate trained a second time, or None where that training failed."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One finished trial: its number, its evaluation, its reward (None if it failed), and the trial whose
    evaluation it repeats because the architecture was met before (None if it is the first).

    Evaluation and reward are of the newest latency. Where the candidate was measured again after the trials,
    `first_latency` is the one that the trial was told with. `replicate` is the accuracy of a second training, from
    another seed, where there was one.
    """

    number: int
    evaluation: Evaluation
    reward: float | None
    repeats: int | None
    first_latency: Latency | None = None
    replicate: Accuracy | None = None


@dataclass(frozen=True)
class RunDirectory:
    """An existing run directory and its configuration."""

    path: Path
    config: SearchConfig

    @classmethod
    def create(cls, path: Path, config: SearchConfig, recipe: Recipe | None = None) -> RunDirectory:
        """Create `path` with `config` in it, and with `recipe`, by default the one that the configuration names.

        Raises:
            RunError: if `path` exists already, or cannot be made, or the study in a database exists.
        """
        if recipe is None:
            recipe = recipe_of(config)
        if config.storage:
            name = config.study or f"{path.name}-{secrets.token_hex(4)}"
            check_new_study(config.storage, name)
            config = replace(config, study=name)
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunError(
                f"a new run needs a directory of its own, not the existing {path}; "
                + (
                    f"`tvm-mnas search --resume {path}` goes on with it"
                    if (path / "config.toml").is_file()
                    else "name another one with --run"
                )
            ) from error
        except OSError as error:
            raise RunError(
                f"{path}: a run directory can be made, and this one cannot ({error.strerror}); "
                f"name another one with --run"
            ) from error
        atomic_write_text(path / _RECIPE, recipe.to_toml())
        atomic_write_text(path / "config.toml", config.to_toml())
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the run in `path`.

        Raises:
            RunError: if it is no run directory, holds code that it names, or leads out of itself.
            ConfigError: if its configuration breaks a rule.
        """
        file = path / "config.toml"
        if not file.is_file():
            raise RunError(
                f"a run directory holds config.toml, and {path} does not; "
                f"`ls {path.parent}` shows what is there, `tvm-mnas search` starts a new run"
            )
        settings = {_RENAMED.get(key, key): value for key, value in read_settings(file).items()}
        config = SearchConfig.from_mapping(settings, source=str(file))
        _check_foreign(path, config)
        return cls(path, config)

    def changed(self, settings: Mapping[str, object]) -> RunDirectory:
        """Return this run with `settings` changed in its configuration, on disk too.

        Raises:
            ConfigError: if a value breaks a rule, or fewer trials are asked for than before.
        """
        config = replace(self.config, **settings)  # type: ignore[arg-type]  # it checks itself
        if config.trials < self.config.trials:
            raise ConfigError(
                f"a resumed run keeps its {self.config.trials} trials or gets more, not {config.trials}"
            )
        atomic_write_text(self.path / "config.toml", config.to_toml())
        return RunDirectory(self.path, config)

    @cached_property
    def reward(self) -> Reward:
        """The reward that this run's configuration asks for."""
        config = self.config
        return Reward(
            target_latency_ms=config.target_latency_ms, alpha=config.alpha, beta=config.beta
        )

    @cached_property
    def recipe(self) -> Recipe:
        """How this run's candidates are trained; ConfigError if that breaks a rule."""
        file = self.path / _RECIPE
        if file.is_file():
            return recipe_from(read_settings(file), source=str(file))
        # A run of before there were recipes.
        return recipe_of(self.config)

    @property
    def logs(self) -> Path:
        """The directory for the logs of the processes that a search starts; made if absent."""
        directory = self.path / "logs"
        directory.mkdir(exist_ok=True)
        return directory

    @property
    def controller(self) -> Path:
        """The file with the controller's parameters."""
        return self.path / "controller.safetensors"

    @property
    def journal(self) -> Path:
        """The file with the study."""
        return self.path / "study.journal"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it however the process ends.

        What a killed process left half done in the journal is put in order first.

        Raises:
            RunError: if another process works on the run, or the journal's end is damaged.
        """
        try:
            file = (self.path / "run.lock").open("w")
        except OSError as error:
            raise RunError(
                f"cannot write to the run {self.path}: {error.strerror}; "
                f"`ls -ld {self.path}` shows whose it is"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"one process works on a run at a time, and another one has {self.path}; "
                    f"wait for it, or end it"
                ) from error
            except OSError as error:
                raise RunError(
                    f"a run needs a file system that can lock files, and that of {self.path} cannot "
                    f"({error.strerror}); keep the run elsewhere with --run, or move it there"
                ) from error
            # Optuna's own lock is a file that outlives a killed process; nobody else can hold it now.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.journal.with_name(self.journal.name + ".lock"))
            repair_journal(self.journal)
            if not self.config.storage:
                yield
                return
            with leased(self.study(), where=f"the study {self.study_name}"):
                yield

    def study(self, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
        """Return the run's Optuna study with two objectives: accuracy (max) and latency in ms (min).

        It is made if there is none; hold the run's lock then. One that is there is opened without a write,
        so that it can be read while a search goes on.

        Raises:
            RunError: if the journal cannot be read.
        """
        import optuna

        try:
            storage = self._storage
            if self.study_name in optuna.get_all_study_names(storage):
                study = optuna.load_study(
                    study_name=self.study_name, storage=storage, sampler=sampler
                )
            elif not self.config.storage and self.journal.stat().st_size:
                raise ValueError("it holds no study of a search")
            else:
                study = optuna.create_study(
                    storage=storage,
                    study_name=self.study_name,
                    directions=["maximize", "minimize"],
                    sampler=sampler,
                )
            if study.metric_names is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(["accuracy", "latency_ms"])
        except Exception as error:
            raise_if_foreign(error)
            if isinstance(error, TvmMnasError):
                raise
            if self.config.storage:
                raise RunError(
                    f"cannot read the study {self.study_name} in {self.config.storage}: {type(error).__name__}: {error}"
                ) from error
            # A journal can be damaged in any way, and Optuna has no error of its own for that.
            raise damaged_journal(self.journal, f"{type(error).__name__}: {error}") from error
        return study

    def finished_trials(self) -> tuple[TrialRecord, ...]:
        """Return the finished trials, read from disk; see `trials`. Writes nothing."""
        return self.trials(self.study()) if self._begun() else ()

    def _begun(self) -> bool:
        """Whether there is a study to read."""
        if not self.config.storage:
            return self.journal.is_file()
        import optuna

        return self.study_name in optuna.get_all_study_names(self._storage)

    @property
    def study_name(self) -> str:
        """The study's in its storage: in a database there are others."""
        return self.config.study or STUDY_NAME

    @property
    def _storage(self) -> BaseStorage:
        # A journal is read anew, since it may be another file by now.
        return self._database if self.config.storage else journal_storage(self.journal)

    @cached_property
    def _database(self) -> BaseStorage:
        return database_storage(self.config.storage, on_wait=_LOGGER.warning)

    def trials(self, study: optuna.Study) -> tuple[TrialRecord, ...]:
        """Return the finished trials of `study` in the order of their numbers.

        Raises:
            RunError: if a trial's evaluation cannot be read.
        """
        records: list[TrialRecord] = []
        # Once: Optuna copies all of them each time.
        attributes = study.user_attrs
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                continue
            evaluation = read_evaluation(trial, self.path)
            if evaluation is None:
                raise RunError(
                    f"{self.path}: a finished trial has an evaluation, and trial {trial.number} "
                    f"has none; restore study.journal from a copy, or start a new search"
                )
            repeats = trial.user_attrs.get(REPEATS_ATTRIBUTE)
            first = evaluation.latency
            newest = self._newest_latency(attributes, trial.number if repeats is None else repeats)
            if newest is not None:
                evaluation = replace(evaluation, latency=newest)
            objectives = evaluation.objectives
            records.append(
                TrialRecord(
                    number=trial.number,
                    evaluation=evaluation,
                    reward=None if objectives is None else self.reward(*objectives),
                    repeats=repeats,
                    first_latency=None if newest is None else first,
                    replicate=self._replicate(attributes, trial.number),
                )
            )
        return tuple(records)

    def keep_latency(self, study: optuna.Study, number: int, latency: Latency) -> None:
        """Keep a newer latency of the candidate that trial `number` met first; hold the run's lock."""
        study.set_user_attr(f"{_LATENCY_AGAIN}{number}", latency.to_dict())

    def keep_replicate(self, study: optuna.Study, number: int, accuracy: Accuracy | None) -> None:
        """Keep what a second training of the candidate of trial `number` gave, None if it failed."""
        values = None if accuracy is None else accuracy.to_json()
        study.set_user_attr(f"{_REPLICATE}{number}", values)

    def replicated(self, study: optuna.Study) -> frozenset[int]:
        """Return the trials whose candidates were trained a second time, or failed to."""
        names = (name.partition(_REPLICATE) for name in study.user_attrs)
        return frozenset(int(number) for _, found, number in names if found)

    def _replicate(self, attributes: Mapping[str, Any], number: int) -> Accuracy | None:
        values = attributes.get(f"{_REPLICATE}{number}")
        try:
            return None if values is None else Accuracy.from_json(values)
        except (TypeError, TvmMnasError) as error:
            raise RunError(
                f"{self.path}: the second accuracy of trial {number} cannot be read ({error}); restore study.journal "
                f"from a copy"
            ) from error

    def _newest_latency(self, attributes: Mapping[str, Any], number: int) -> Latency | None:
        values = attributes.get(f"{_LATENCY_AGAIN}{number}")
        try:
            return None if values is None else Latency.from_dict(values)
        except (AttributeError, TypeError, ValueError, TvmMnasError) as error:
            raise RunError(
                f"{self.path}: the newest latency of trial {number} cannot be read "
                f"({type(error).__name__}: {error}); restore study.journal from a copy"
            ) from error


def _check_foreign(path: Path, config: SearchConfig) -> None:
    """Refuse what a run that somebody sent could do harm with: it is read, and brings no code and no way out."""
    inside = path.resolve()
    for part in (config.space, config.data, config.trainer, config.algorithm, config.executor):
        file = part.partition(":")[0]
        if file.endswith(".py") and Path(file).resolve().is_relative_to(inside):
            raise RunError(
                f"{path}: the code that a run names lies outside of it, and {file} lies within; look at it, put it "
                f"elsewhere and name its new place in {path / 'config.toml'}"
            )
    for entry in path.iterdir():
        if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
            raise RunError(
                f"{path}: a run keeps its files in its own directory, and {entry.name} is a link to "
                f"{entry.readlink()}; put what is there in its place: `rm {entry}`"
            )
