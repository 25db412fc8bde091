"""A search from Python: what `tvm-mnas search` does, as one function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.profile import read_profile
from tvm_mnas.devices.core.tracker import TrackerClient
from tvm_mnas.errors import ConfigError, RecordsError
from tvm_mnas.evaluation.executors.protocol import ExecutorRequest
from tvm_mnas.evaluation.results import EvaluatorRequest
from tvm_mnas.evaluation.tables.evaluator import settings_of_table
from tvm_mnas.evaluation.trainers import Trainer, recipe_of
from tvm_mnas.plugins import (
    ALGORITHMS,
    DEVICE_EVALUATOR,
    EVALUATORS,
    EXECUTORS,
    SPACES,
    TRAINERS,
    Registry,
    reference_of,
)
from tvm_mnas.processes import ensure_home
from tvm_mnas.search.algorithms.by_name import Algorithm
from tvm_mnas.search.loop import SearchObserver
from tvm_mnas.search.result import SearchResult
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.search.session import Session
from tvm_mnas.search.study.database import check_storage
from tvm_mnas.search.task import space_of
from tvm_mnas.space.catalogue import Space
from tvm_mnas.training.accelerators import check_device
from tvm_mnas.training.data.sources import check_data
from tvm_mnas.training.recipe import Recipe

_DEFAULTS = SearchConfig()


class SilentObserver:
    """Watches a search and says nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A stage went on."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def trial(self, record: TrialRecord) -> None:
        """A trial finished."""


def run_search(
    space: str | Space = _DEFAULTS.space,
    device: str = _DEFAULTS.device,
    *,
    task: str = _DEFAULTS.task,
    target_latency_ms: float | None = None,
    trainer: str | Trainer = _DEFAULTS.trainer,
    data: str = _DEFAULTS.data,
    max_bad_images: int = _DEFAULTS.max_bad_images,
    algorithm: str | Algorithm = _DEFAULTS.algorithm,
    executor: str = _DEFAULTS.executor,
    evaluator: str = _DEFAULTS.evaluator,
    alpha: float = _DEFAULTS.alpha,
    beta: float = _DEFAULTS.beta,
    trials: int = _DEFAULTS.trials,
    batch: int = _DEFAULTS.batch,
    lag: int = _DEFAULTS.lag,
    seed: int = _DEFAULTS.seed,
    recipe: str | Recipe = _DEFAULTS.recipe,
    train_steps: int = _DEFAULTS.train_steps,
    train_epochs: float = _DEFAULTS.train_epochs,
    train_batch: int = _DEFAULTS.train_batch,
    learning_rate: float = _DEFAULTS.learning_rate,
    train_device: str = _DEFAULTS.train_device,
    replicates: int = _DEFAULTS.replicates,
    schedules_per_kernel: int = _DEFAULTS.schedules_per_kernel,
    max_untuned_share: float = _DEFAULTS.max_untuned_share,
    finalists: int = _DEFAULTS.finalists,
    final_steps: int = _DEFAULTS.final_steps,
    jobs: int = _DEFAULTS.jobs,
    records: str = _DEFAULTS.records,
    storage: str = _DEFAULTS.storage,
    study: str = _DEFAULTS.study,
    run: str | Path | None = None,
    observer: SearchObserver | None = None,
) -> SearchResult:
    """Search and return what was found; the settings are those of `SearchConfig` and of the command line.

    `space`, `trainer` and `algorithm` are what the command takes, or objects of one's own: these have a name in a
    module or file, by which worker processes and a resumed search find them. `recipe` may be a `Recipe`, too. With
    `task="detection"` the defaults are those of `config.DETECTION`. `run` is the run's new directory, by default below
    `runs/`; `resume_search` goes on with it. `target_latency_ms` is needed but for the default space. With
    `evaluator="table:NAME"` space and target are the table's, where they are left out.

    A script that calls this does so below `if __name__ == "__main__":`, since worker processes import it.

    Raises:
        ConfigError, SpaceError, ProfileError, DataError: if something asked for cannot be.
        RunError: if `run` exists.
        RecordsError: if the tuning records are of another target, or no directory.
        DeviceError: if the device stays lost; `resume_search(run)` goes on.
    """
    name = _reference(SPACES, space, what="a space")
    given = {"evaluator": evaluator}
    if name != _DEFAULTS.space:
        given["space"] = name
    told = table_settings(given)
    name = str(told.get("space", name))
    if target_latency_ms is None:
        target_latency_ms = told.get("target_latency_ms")
    if target_latency_ms is None:
        if name != _DEFAULTS.space:
            raise ConfigError(
                f"a search in the space {name!r} needs its target latency, and there is none; "
                f"add, for example, target_latency_ms=80.0"
            )
        target_latency_ms = _DEFAULTS.target_latency_ms
    config = SearchConfig(
        task=task,
        space=name,
        device=device,
        data=data,
        max_bad_images=max_bad_images,
        target_latency_ms=target_latency_ms,
        alpha=alpha,
        beta=beta,
        algorithm=_reference(ALGORITHMS, algorithm, what="an algorithm"),
        trainer=_reference(TRAINERS, trainer, what="a trainer"),
        executor=executor,
        evaluator=evaluator,
        trials=trials,
        batch=batch,
        lag=lag,
        seed=seed,
        recipe=recipe if isinstance(recipe, str) else _DEFAULTS.recipe,
        train_steps=train_steps,
        train_epochs=train_epochs,
        train_batch=train_batch,
        learning_rate=learning_rate,
        train_device=train_device,
        replicates=replicates,
        schedules_per_kernel=schedules_per_kernel,
        max_untuned_share=max_untuned_share,
        finalists=finalists,
        final_steps=final_steps,
        jobs=jobs,
        records=records,
        storage=storage,
        study=study,
    )
    config = config.with_defaults_of_its_task().located(Path.cwd())
    # Before there is a directory: the same call with the mistake mended is to find none.
    inputs = check_inputs(config)
    resolved = recipe if isinstance(recipe, Recipe) else recipe_of(config)
    path = default_run(inputs.space.name) if run is None else Path(run)
    directory = RunDirectory.create(path, config, resolved)
    for note in inputs.notes:
        (observer or SilentObserver()).note(note)
    return _finish(directory, observer)


def resume_search(
    run: str | Path, *, trials: int | None = None, observer: SearchObserver | None = None
) -> SearchResult:
    """Go on with a search, after anything; `trials` may be more than before.

    Raises what `run_search` raises, and RunError where the run is damaged or in use.
    """
    directory = RunDirectory.open(Path(run))
    check_inputs(directory.config)
    return _finish(directory, observer, trials=trials)


@dataclass(frozen=True, slots=True)
class CheckedInputs:
    """The space of a search, and what is worth a line about its data."""

    space: Space
    notes: tuple[str, ...]


def check_inputs(config: SearchConfig) -> CheckedInputs:
    """Look whether everything that a search of `config` names is there. Starts nothing.

    Raises:
        SpaceError, ProfileError, DataError: if the space, the device or the data is not.
        RecordsError: if the records are to be kept in a file.
        ConfigError: if the study is to be kept where no database can be, or there is no such executor.
        TrackerError: if the tracker of the device does not answer.
    """
    space = space_of(config)
    if config.storage:
        # Whether it is up is found out where the study is opened, before anything else is.
        check_storage(config.storage)
    if config.evaluator != DEVICE_EVALUATOR:
        # What it does not know is told before a run is made; there is neither a device nor data to look for.
        EVALUATORS.load(config.evaluator)(EvaluatorRequest(config, space))
        return CheckedInputs(space, ())
    profile = read_profile(config.device)
    check_device(config.train_device)
    # Made and not entered: what is wrong with its name, or not installed, is told before a run is made.
    EXECUTORS.load(config.executor)(ExecutorRequest(train_device="cpu"))
    notes = check_data(config.data)
    records = Path(config.records)
    if records.exists() and not records.is_dir():
        raise RecordsError(
            f"{records}: tuning records are kept in a directory, and this is a file; "
            f"name another place for them (--records)"
        )
    if profile.tracker is not None:
        with TrackerClient(profile.tracker):
            pass
    return CheckedInputs(space, notes)


def table_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return `settings` with the space and the target of the table that they search on, where they have none.

    Raises:
        ConfigError: if there is no such table.
        RunError: if it cannot be read.
    """
    kind, _, text = str(settings.get("evaluator", "")).partition(":")
    return (settings_of_table(text) if kind == "table" else {}) | dict(settings)


def default_run(space: str) -> Path:
    """Return the directory of a new run that nobody named, from the clock and the space's name."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{space}"


def _finish(
    directory: RunDirectory, observer: SearchObserver | None, *, trials: int | None = None
) -> SearchResult:
    ensure_home()
    with directory.lock():
        if trials is not None:
            directory = directory.changed({"trials": trials})
        return Session.open(directory).run(observer or SilentObserver())


def _reference(registry: Registry, part: object, *, what: str) -> str:
    return part if isinstance(part, str) else reference_of(part, what=what)
