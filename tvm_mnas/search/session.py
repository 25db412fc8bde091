"""One search from start to finish in its run directory: trials, finalists, export.

Each step starts from what the run directory holds, so going on after an interruption is calling `run` again.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import CandidateError, ConfigError, RunError
from tvm_mnas.evaluation.executors.protocol import Executor, ExecutorRequest, run_all
from tvm_mnas.evaluation.manifest import MANIFEST, Manifest, Origin, read_manifest
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.results import Evaluator, EvaluatorRequest, Observer
from tvm_mnas.evaluation.streaming import StreamingPipeline
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_toolchain
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.plugins import DEVICE_EVALUATOR, EVALUATORS, EXECUTORS
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler, population_for
from tvm_mnas.search.elsewhere import search_on
from tvm_mnas.search.export import export_network
from tvm_mnas.search.finals import settle_latencies, time_finalists
from tvm_mnas.search.loop import SearchObserver, run_trials
from tvm_mnas.search.proxy import ChanceWatch, Replicates, count_images, epochs_note, noise_of
from tvm_mnas.search.result import SearchResult, pick_finalists
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.search.task import space_of
from tvm_mnas.space.catalogue import Space
from tvm_mnas.training.recipe import Recipe

if TYPE_CHECKING:
    import optuna

FINAL_FACTOR = 4
"""So many times as long as candidates are finalists trained, unless the run says how long."""

TRAINING_LOG = "training.log"
"""Among the run's logs: what trainings print that run on other machines."""
_SCRATCH = "scratch"
"""Below the run directory: files that pass between the processes of one command."""


def sampler_of(run: RunDirectory, space: Space) -> optuna.samplers.BaseSampler:
    """Return the sampler that the configuration of `run` names, for `space`.

    Raises:
        ConfigError: if there is none.
    """
    config = run.config
    request = AlgorithmRequest(
        decisions=space.decisions,
        reward=run.reward,
        seed=config.seed,
        batch_size=config.batch,
        lag=config.lag,
        population=population_for(config.trials),
        checkpoint=run.controller,
    )
    return make_sampler(config.algorithm, request)


@dataclass(frozen=True)
class Session:
    """A run directory with its space, sampler and study. Hold the run's lock while using it."""

    directory: RunDirectory
    space: Space

    @classmethod
    def open(cls, directory: RunDirectory) -> Session:
        """Return the session of `directory`.

        Raises:
            SpaceError: if the space file is missing or breaks a rule.
        """
        return cls(directory, space_of(directory.config))

    @cached_property
    def study(self) -> optuna.Study:
        """The run's study, with the sampler that its configuration names."""
        return self.directory.study(sampler_of(self.directory, self.space))

    @property
    def finished(self) -> int:
        """How many trials are finished."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def run(self, observer: SearchObserver) -> SearchResult:
        """Finish the search and return its result; what an earlier call finished is kept.

        Raises:
            RunError: if the run directory cannot be read.
            RecordsError: if the tuning records cannot be read.
            DeviceError: if the device stays lost.
        """
        config = self.directory.config
        if config.evaluator != DEVICE_EVALUATOR:
            request = EvaluatorRequest(config, self.space)
            evaluator: Evaluator = EVALUATORS.load(config.evaluator)(request)
            return search_on(evaluator, self.directory, self.space, self.study, observer)
        with self.pipeline(observer) as pipeline:
            self._run_trials(pipeline, observer)
            records = self.directory.trials(self.study)
            finished = self._finished_export(records)
            if finished is not None:
                return finished
            return self._finish(pipeline, observer)

    def _run_trials(self, pipeline: CandidatePipeline, observer: SearchObserver) -> None:
        config = self.directory.config
        watch = ChanceWatch(config.batch)
        replicates = Replicates(
            self.directory, self.study, pipeline, observer, side_by_side=pipeline.executor.slots
        )
        if self.finished == 0:
            example = self.space.decode(self.space.sample(random.Random(0)))
            # With an epoch or more nothing is to be told, and large data takes minutes to list.
            if config.trainer == "proxy" and self.directory.recipe.epochs < 1:
                images = count_images(self.directory, example.input_size)
                if (note := epochs_note(self.directory, images)) is not None:
                    observer.note(note)

        def tell(record: TrialRecord) -> None:
            observer.trial(record)
            if (note := watch.look(record)) is not None:
                observer.note(note)

        # A training beside a measurement on this machine would be in its time.
        beside = not pipeline.toolchain.profile.is_local
        run_trials(
            self.directory,
            self.space,
            self.study,
            StreamingPipeline(pipeline) if beside else pipeline,
            on_trial=tell,
            on_batch=replicates.train_due,
        )
        replicates.train_due(last=True)

    def pick(self, trial: int | None) -> TrialRecord:
        """Return the finished trial with this number, or the one with the highest reward.

        Raises:
            ConfigError: if there is no such trial, or it failed.
        """
        records = self.directory.trials(self.study)
        if trial is None:
            finalists = pick_finalists(records, 1)
            if not finalists:
                raise ConfigError(
                    f"an export needs a trial that succeeded, and {self.directory.path} has none; "
                    f"`tvm-mnas report {self.directory.path}` lists the reasons"
                )
            return finalists[0]
        for record in records:
            if record.number == trial:
                if record.reward is None:
                    raise ConfigError(
                        f"an export needs a trial that succeeded, and trial {trial} failed; "
                        f"`tvm-mnas report {self.directory.path}` lists those that did"
                    )
                return record
        raise ConfigError(
            f"{self.directory.path} has {len(records)} finished trials, and none is number {trial}; "
            f"`tvm-mnas report {self.directory.path}` lists them"
        )

    @contextmanager
    def pipeline(self, observer: Observer) -> Iterator[CandidatePipeline]:
        """Yield what evaluates the run's candidates, its device and processes up; they end with the context.

        Raises:
            RunError: if the run's tuning records are gone.
            DeviceError: if the device cannot be reached.
        """
        config = self.directory.config
        # Made before the device is opened, which takes a while: what is wrong with its name is told first.
        unopened = self._executor(observer)
        with (
            self._bench(config.schedules_per_kernel, observer) as toolchain,
            unopened as executor,
        ):
            yield CandidatePipeline(
                config,
                self.directory.recipe,
                executor.devices,
                toolchain,
                executor,
                self.directory.path / _SCRATCH,
                observer,
            )

    def export(
        self, record: TrialRecord, directory: Path, *, steps: int | None, observer: Observer
    ) -> Manifest:
        """Train the trial's network for `steps` (the run's `final_steps` if None) and export it.

        Returns the manifest.

        Raises:
            RunError: if `directory` exists.
            CandidateError: if training, compiling or measuring fails.
            DeviceError: if the device stays lost.
        """
        if directory.exists():
            raise RunError(f"an export makes a new directory, and {directory} exists; name another")
        with self.pipeline(observer) as pipeline:
            ((_, outcome),) = self._retrain([record], steps, pipeline.executor, observer)
            if outcome is not None:
                raise outcome
            return self._export(record, directory, steps, pipeline.toolchain, observer)

    def _finish(self, pipeline: CandidatePipeline, observer: SearchObserver) -> SearchResult:
        run, toolchain = self.directory, pipeline.toolchain
        finalists = pick_finalists(
            settle_latencies(run, self.study, pipeline), run.config.finalists
        )
        retrained: list[TrialRecord] = []
        for record, error in self._retrain(finalists, None, pipeline.executor, observer):
            if error is not None:
                observer.note(f"finalist of trial {record.number} failed: {error}")
                continue
            retrained.append(record)
        timed = time_finalists(run, self.study, pipeline, retrained)
        records = run.trials(self.study)
        for record in sorted(timed, key=lambda one: (-self._final_reward(one), one.number)):
            best = run.path / "best"
            shutil.rmtree(best, ignore_errors=True)
            try:
                manifest = self._export(record, best, None, toolchain, observer)
            except CandidateError as error:
                observer.note(f"finalist of trial {record.number} failed: {error}")
                continue
            return SearchResult(run.path, records, record, best, manifest)
        return SearchResult(run.path, records, None, None, None)

    def _finished_export(self, records: tuple[TrialRecord, ...]) -> SearchResult | None:
        """Return the result of a search whose best network was exported already."""
        file = self.directory.path / "best" / MANIFEST
        try:
            manifest = read_manifest(file)
        except RunError:
            # Whatever is not a whole export of just this search is made again.
            return None
        best = next((r for r in records if r.number == manifest.origin.trial), None)
        if best is None or manifest.origin.trials != len(records):
            return None
        return SearchResult(self.directory.path, records, best, file.parent, manifest)

    def _retrain(
        self,
        records: list[TrialRecord],
        steps: int | None,
        executor: Executor,
        observer: Observer,
    ) -> Iterator[tuple[TrialRecord, CandidateError | None]]:
        recipe = self._final_recipe(steps)
        waiting: list[TrialRecord] = []
        tasks: list[TrainTask] = []
        for record in records:
            task = TrainTask.of(
                record.evaluation.architecture,
                self.directory.config,
                recipe,
                executor.devices,
                weights=self._weights(record, steps),
            )
            if task.known() is None:
                waiting.append(record)
                tasks.append(task)
            else:
                yield record, None
        total = sum(task.steps for task in tasks)
        outcomes = run_all(
            executor,
            run_training,
            tasks,
            on_progress=lambda done: observer.stage("finalists", done, total),
        )
        for index, outcome in outcomes:
            if outcome.error is not None and not isinstance(outcome.error, CandidateError):
                raise outcome.error
            yield waiting[index], outcome.error

    def _export(
        self,
        record: TrialRecord,
        directory: Path,
        steps: int | None,
        toolchain: Toolchain,
        observer: Observer,
    ) -> Manifest:
        weights = self._weights(record, steps)
        return export_network(
            weights,
            directory,
            config=self.directory.config,
            toolchain=toolchain,
            origin=Origin(
                run=self.directory.path.name,
                trial=record.number,
                trials=self.directory.config.trials,
                search_reward=record.reward,
                search_accuracy=record.evaluation.accuracy,
                algorithm=self.directory.config.algorithm,
                seed=self.directory.config.seed,
                accuracy_noise=noise_of(self.directory.trials(self.study)),
            ),
            observer=observer,
        )

    def _final_reward(self, record: TrialRecord) -> float:
        from tvm_mnas.evaluation.trainers import read_accuracy

        assert record.evaluation.latency is not None
        accuracy = read_accuracy(self._weights(record, None))
        return self.directory.reward(accuracy.top1, record.evaluation.latency.latency_ms)

    def _final_recipe(self, steps: int | None) -> Recipe:
        """Return the recipe of the finalists: the run's, for `steps`, `final_steps`, or four times as long."""
        recipe = self.directory.recipe
        chosen = self.directory.config.final_steps if steps is None else steps
        if chosen:
            return recipe.lasting(steps=chosen)
        return recipe.lasting(
            steps=FINAL_FACTOR * recipe.steps, epochs=FINAL_FACTOR * recipe.epochs
        )

    def _weights(self, record: TrialRecord, steps: int | None) -> Path:
        length = self._final_recipe(steps).length
        finalists = self.directory.path / "finalists"
        finalists.mkdir(exist_ok=True)
        return finalists / f"{record.evaluation.architecture.id}-{length}.safetensors"

    @contextmanager
    def _bench(self, schedules_per_kernel: int, observer: Observer) -> Iterator[Toolchain]:
        from tvm_mnas.devices.core.profile import load_profile

        config = self.directory.config
        if self.finished and not Path(config.records).is_dir():
            # Without them everything would be tuned again, for hours, and nobody asked for that.
            path = self.directory.path
            raise RunError(
                f"cannot find the tuning records of {path}: {config.records} is no directory"
                + ("" if Path(config.records).is_absolute() else f" below {Path.cwd()}")
                + f"; put them back, or say where they are: `tvm-mnas search --resume {path} --records DIR`"
            )
        scratch = self.directory.path / _SCRATCH
        # A process that was killed leaves files there; we hold the run's lock, so nobody needs them.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        with open_toolchain(
            load_profile(config.device),
            ToolchainOptions(
                records=Path(config.records),
                schedules_per_kernel=schedules_per_kernel,
                seed=config.seed,
                max_untuned_share=config.max_untuned_share,
            ),
            logs=self.directory.logs,
            scratch=scratch,
            on_warning=observer.note,
        ) as toolchain:
            yield toolchain
        shutil.rmtree(scratch, ignore_errors=True)

    def _executor(self, observer: Observer) -> Executor:
        config = self.directory.config
        executor: Executor = EXECUTORS.load(config.executor)(
            ExecutorRequest(
                jobs=config.jobs,
                train_device=config.train_device,
                log=self.directory.logs / TRAINING_LOG,
                on_warning=observer.note,
            )
        )
        return executor
