"""The real evaluator: train, tune what is new, compile, check, measure.

The stages of a batch follow each other, they do not overlap: while a network or a kernel is timed on this
machine, nothing is trained. (Kernels are built while others are timed, on different cores.)
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
from tvm_mnas.evaluation.executor import Executor, run_all
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
class _Candidate:
    """What has become of one candidate so far."""

    index: int
    architecture: Candidate
    effort: Effort = field(default_factory=Effort)
    accuracy: Accuracy | None = None
    network: nn.Module | None = None
    counted: Cost | None = None
    lowered: LoweredNetwork | None = None

    def failed(self, stage: str, error: CandidateError) -> tuple[int, Evaluation]:
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
        candidates = [_Candidate(index, item) for index, item in enumerate(architectures)]
        trained: list[_Candidate] = []
        for candidate, error in self._train(candidates):
            if error is None:
                trained.append(candidate)
            else:
                yield candidate.failed("training", error)
        lowered: list[_Candidate] = []
        for candidate in sorted(trained, key=lambda item: item.index):
            try:
                self._lower(candidate)
            except CandidateError as error:
                yield candidate.failed("lowering", error)
            else:
                lowered.append(candidate)
        self._tune(lowered)
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
        candidate = _Candidate(0, architecture)
        self._lower(candidate)
        assert candidate.lowered is not None
        self._tune([candidate])
        return self.toolchain.compile(candidate.lowered, self.artifacts / f"{architecture.id}.so")

    def _train(
        self, candidates: Sequence[_Candidate]
    ) -> Iterator[tuple[_Candidate, CandidateError | None]]:
        architectures = [candidate.architecture for candidate in candidates]
        for index, accuracy in self._accuracies(architectures, "training", again=False):
            candidate = candidates[index]
            if isinstance(accuracy, CandidateError):
                yield candidate, accuracy
                continue
            candidate.accuracy = accuracy
            candidate.effort = replace(candidate.effort, training_s=accuracy.duration_s)
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
                continue
            if outcome.error is not None:
                raise outcome.error
            assert outcome.result is not None
            yield index, outcome.result

    def _lower(self, candidate: _Candidate) -> None:
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

    def _tune(self, candidates: Sequence[_Candidate]) -> None:
        networks = [item.lowered for item in candidates if item.lowered is not None]
        owners: dict[str, _Candidate] = {}
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

    def _measure(self, candidate: _Candidate) -> tuple[int, Evaluation]:
        assert candidate.lowered is not None and candidate.network is not None
        assert candidate.accuracy is not None
        shape = candidate.architecture.image_shape
        path = self.artifacts / f"{candidate.architecture.id}.so"
        stage = "compiling"
        started = time.perf_counter()
        try:
            kernels_us = self.toolchain.kernels_us(candidate.lowered)
            artifact = self.toolchain.compile(candidate.lowered, path)
            compiled = time.perf_counter()
            stage = "measuring"
            judge = torch_judge(candidate.network, batch_size=shape[0])
            self.toolchain.check_network(artifact, judge, seed=self.config.seed)
            latency = self.toolchain.measure(artifact)
        except CandidateError as error:
            return candidate.failed(stage, error)
        finally:
            path.unlink(missing_ok=True)
        effort = replace(
            candidate.effort,
            compiling_s=candidate.effort.compiling_s + compiled - started,
            measuring_s=time.perf_counter() - compiled,
            kernel_calls=candidate.lowered.kernel_calls,
            kernels_us=kernels_us,
            moved_bytes=candidate.lowered.moved_bytes,
        )
        return candidate.index, Evaluation.success(
            candidate.architecture, candidate.accuracy, latency, effort, candidate.counted
        )
