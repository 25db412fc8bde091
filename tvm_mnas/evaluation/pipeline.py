"""The real evaluator: train, tune what is new, compile, check, measure.

Where the device is this machine, the stages of a batch follow each other: while a network or a kernel is timed here,
nothing is trained. (Kernels are built while others are timed, on different cores.) With any other device they overlap
(streaming.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import CandidateError
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.executors.protocol import Executor, run_all
from tvm_mnas.evaluation.results import Effort, Evaluation, Failure, Observer
from tvm_mnas.evaluation.toolchain import Toolchain
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.models.cost import Cost
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.training.accuracy import Accuracy


@dataclass
class Underway:
    """What has become of one candidate so far; `index` is its place in the order in which it came."""

    index: int
    architecture: Candidate
    effort: Effort = field(default_factory=Effort)
    accuracy: Accuracy | None = None
    network: nn.Module | None = None
    counted: Cost | None = None
    lowered: LoweredNetwork | None = None

    def train(self, accuracy: Accuracy) -> None:
        """Take note of its training's end."""
        self.accuracy = accuracy
        self.effort = replace(self.effort, training_s=accuracy.duration_s)

    def failed(self, stage: str, error: CandidateError) -> tuple[int, Evaluation]:
        """Return what is known of it after `stage` failed."""
        failure = Failure.of(stage, error)
        return self.index, Evaluation.failed(self.architecture, failure, self.effort, self.accuracy)


@dataclass(frozen=True)
class CandidatePipeline:
    """Evaluates candidates with a toolchain and an executor; `artifacts` is a directory for passing files."""

    config: SearchConfig
    recipe: Recipe
    devices: tuple[str, ...]
    toolchain: Toolchain
    executor: Executor
    artifacts: Path
    observer: Observer

    def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        """Yield `(index, evaluation)` of each architecture as soon as it is known.

        Raises:
            DeviceError: if the device stays lost; the candidates not yet yielded are then unevaluated.
        """
        candidates = [Underway(index, item) for index, item in enumerate(architectures)]
        trained: list[Underway] = []
        for candidate, error in self._train(candidates):
            if error is None:
                trained.append(candidate)
            else:
                yield candidate.failed("training", error)
        lowered: list[Underway] = []
        for candidate in sorted(trained, key=lambda item: item.index):
            try:
                self.lower(candidate)
            except CandidateError as error:
                yield candidate.failed("lowering", error)
            else:
                lowered.append(candidate)
        self.tune(lowered)
        for done, candidate in enumerate(lowered):
            self.observer.stage("measuring", done, len(lowered))
            yield self._measure(candidate)

    def train_again(
        self, architectures: Sequence[Candidate]
    ) -> Iterator[tuple[int, Accuracy | None]]:
        """Yield `(index, accuracy)` of each architecture trained with its second seed, None if that fails.

        Raises:
            DataError: if the data is missing or does not fit.
        """
        for index, accuracy in self._accuracies(architectures, "training again", again=True):
            yield index, None if isinstance(accuracy, CandidateError) else accuracy

    def compile(self, architecture: Candidate) -> CompiledArtifact:
        """Return a candidate's network compiled once more, to be measured again; the file is the caller's to remove.

        Raises:
            CandidateError: if it cannot be lowered or compiled.
            DeviceError: if the device stays lost, and kernels have to be tuned since their records are gone.
        """
        candidate = Underway(0, architecture)
        self.lower(candidate)
        assert candidate.lowered is not None
        self.tune([candidate])
        return self.toolchain.compile(candidate.lowered, self.artifacts / f"{architecture.id}.so")

    def _train(
        self, candidates: Sequence[Underway]
    ) -> Iterator[tuple[Underway, CandidateError | None]]:
        architectures = [candidate.architecture for candidate in candidates]
        for index, accuracy in self._accuracies(architectures, "training", again=False):
            candidate = candidates[index]
            if isinstance(accuracy, CandidateError):
                yield candidate, accuracy
                continue
            candidate.train(accuracy)
            yield candidate, None

    def _accuracies(
        self, architectures: Sequence[Candidate], stage: str, *, again: bool
    ) -> Iterator[tuple[int, Accuracy | CandidateError]]:
        tasks = [
            TrainTask.of(architecture, self.config, self.recipe, self.devices, again=again)
            for architecture in architectures
        ]
        total = sum(task.steps for task in tasks)
        outcomes = run_all(
            self.executor,
            run_training,
            tasks,
            on_progress=lambda done: self.observer.stage(stage, done, total),
        )
        for index, outcome in outcomes:
            if isinstance(outcome.error, CandidateError):
                yield index, outcome.error
            else:
                yield index, outcome.get()

    def lower(self, candidate: Underway) -> None:
        """Build a candidate's network and lower it to the device's kernels.

        Raises:
            CandidateError: if that cannot be.
        """
        from tvm_mnas.models.candidates import build_candidate, candidate_cost

        started = time.perf_counter()
        # Kernels do not depend on weights: random ones measure the same network.
        candidate.network = build_candidate(candidate.architecture, seed=self.config.seed).eval()
        if not isinstance(candidate.architecture, Architecture):
            candidate.counted = candidate_cost(candidate.architecture, candidate.network)
        candidate.lowered = self.toolchain.lower(
            candidate.network, candidate.architecture.image_shape
        )
        candidate.effort = replace(
            candidate.effort,
            kernels=len(candidate.lowered.kernels),
            compiling_s=time.perf_counter() - started,
        )

    def tune(self, candidates: Sequence[Underway]) -> None:
        """Tune the kernels of lowered candidates that have no records, each once.

        Raises:
            DeviceError: if the device stays lost.
        """
        networks = [item.lowered for item in candidates if item.lowered is not None]
        owners: dict[str, Underway] = {}
        for candidate in candidates:
            assert candidate.lowered is not None
            for kernel in self.toolchain.missing(candidate.lowered):
                owners.setdefault(kernel.key, candidate)
        if not owners:
            return
        self.observer.stage("tuning", 0, 1)
        report = self.toolchain.tune(
            networks, on_progress=lambda done, total: self.observer.stage("tuning", done, total)
        )
        for tuned in report.kernels:
            if tuned.key not in owners:
                continue
            owner = owners[tuned.key]
            owner.effort = replace(
                owner.effort,
                kernels_tuned=owner.effort.kernels_tuned + 1,
                schedules_measured=owner.effort.schedules_measured + tuned.schedules,
                tuning_s=owner.effort.tuning_s + report.duration_s / len(owners),
            )

    def _measure(self, candidate: Underway) -> tuple[int, Evaluation]:
        stage = "compiling"
        artifact: CompiledArtifact | None = None
        try:
            artifact = self.build(candidate)
            stage = "measuring"
            return candidate.index, self.time(candidate, artifact)
        except CandidateError as error:
            return candidate.failed(stage, error)
        finally:
            if artifact is not None:
                artifact.path.unlink(missing_ok=True)

    def build(self, candidate: Underway) -> CompiledArtifact:
        """Compile a candidate that was lowered and tuned; the file is the caller's to remove.

        Raises:
            CandidateError: if it cannot be compiled.
        """
        assert candidate.lowered is not None
        started = time.perf_counter()
        kernels_us = self.toolchain.kernels_us(candidate.lowered)
        path = self.artifacts / f"{candidate.architecture.id}.so"
        try:
            artifact = self.toolchain.compile(candidate.lowered, path)
        except CandidateError:
            path.unlink(missing_ok=True)
            raise
        candidate.effort = replace(
            candidate.effort,
            compiling_s=candidate.effort.compiling_s + time.perf_counter() - started,
            kernel_calls=candidate.lowered.kernel_calls,
            kernels_us=kernels_us,
            moved_bytes=candidate.lowered.moved_bytes,
        )
        return artifact

    def time(self, candidate: Underway, artifact: CompiledArtifact) -> Evaluation:
        """Check and measure a candidate on a device, and return what is known of it now.

        Raises:
            CandidateError: if its outputs are wrong, or it cannot be measured.
            DeviceError: if the device stays lost.
        """
        assert candidate.network is not None and candidate.accuracy is not None
        started = time.perf_counter()
        judge = torch_judge(candidate.network, batch_size=candidate.architecture.image_shape[0])
        self.toolchain.check_network(artifact, judge, seed=self.config.seed)
        latency = self.toolchain.measure(artifact)
        effort = replace(candidate.effort, measuring_s=time.perf_counter() - started)
        return Evaluation.success(
            candidate.architecture, candidate.accuracy, latency, effort, candidate.counted
        )
