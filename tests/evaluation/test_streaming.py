"""Candidates on their way side by side: as in a batch, but that nobody waits for who is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.report.runs import make_accuracy, make_latency, sample_architectures
from tvm_mnas.compiler.build.artifact import CompiledArtifact
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import (
    BuildError,
    DataError,
    DeviceLostError,
    LoweringError,
    MeasurementError,
    TrainingError,
    TvmMnasError,
)
from tvm_mnas.evaluation.executors.protocol import TaskOutcome
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.results import Evaluation, StreamEvaluator
from tvm_mnas.evaluation.streaming import StreamingPipeline
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.training.recipe import Recipe

CANDIDATES = sample_architectures(12)
SHAPE = CANDIDATES[0].image_shape
TARGET = '{"kind": "llvm", "num-cores": 1}'


@dataclass
class Clock:
    """Notes what was at work when."""

    spans: list[tuple[str, float, float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at(self, name: str, duration_s: float) -> Any:
        began = time.monotonic()
        try:
            yield
            time.sleep(duration_s)
        finally:
            with self._lock:
                self.spans.append((name, began, time.monotonic()))

    def most_at_once(self, *names: str) -> int:
        mine = [(began, ended) for name, began, ended in self.spans if name in names]
        return max((sum(b <= began < e for b, e in mine) for began, _ in mine), default=0)

    def overlap(self, one: str, other: str) -> bool:
        return any(
            a < d and c < b
            for name, a, b in self.spans
            for another, c, d in self.spans
            if (name, another) == (one, other)
        )


class Threads:
    """An executor whose trainings sleep; some fail."""

    def __init__(
        self,
        clock: Clock,
        *,
        jobs: int,
        training_s: Callable[[Candidate], float],
        errors: dict[str, TvmMnasError],
    ) -> None:
        self._clock, self._training_s, self._errors = clock, training_s, errors
        self._pool = ThreadPoolExecutor(jobs)
        self._running: dict[Future[Any], Callable[[TaskOutcome[Any]], None]] = {}

    def submit(
        self, function: object, task: Any, on_end: Callable[[TaskOutcome[Any]], None]
    ) -> Any:
        self._running[self._pool.submit(self._train, task.candidate)] = on_end
        return SimpleNamespace(steps=0)

    def poll(self, timeout_s: float) -> None:
        done, _ = wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)
        for future in done:
            on_end = self._running.pop(future)
            try:
                on_end(TaskOutcome(future.result(), None))
            except TvmMnasError as error:
                on_end(TaskOutcome(None, error))

    def _train(self, candidate: Candidate) -> Any:
        with self._clock.at("training", self._training_s(candidate)):
            if candidate.id in self._errors:
                raise self._errors[candidate.id]
            return make_accuracy(0.5 + 0.01 * CANDIDATES.index(cast(Any, candidate)))


class Bench:
    """A toolchain whose stages sleep; some fail."""

    def __init__(
        self, clock: Clock, *, devices: int, local: bool, errors: dict[str, dict[str, TvmMnasError]]
    ) -> None:
        self._clock, self._errors = clock, errors
        self.profile = SimpleNamespace(is_local=local)
        self.farm = SimpleNamespace(capacity=devices)
        self._of: dict[int, str] = {}

    def _stage(self, name: str, identity: str, duration_s: float) -> None:
        with self._clock.at(name, duration_s):
            if identity in self._errors.get(name, {}):
                raise self._errors[name][identity]

    def lower(self, network: Any, shape: Any) -> LoweredNetwork:
        (identity,) = {c.id for c in CANDIDATES if c.notation == network.notation}
        self._stage("lowering", identity, 0.0)
        lowered = LoweredNetwork(SHAPE, TARGET, (), network)
        self._of[id(lowered)] = identity
        return lowered

    def missing(self, lowered: LoweredNetwork) -> list[Any]:
        return [SimpleNamespace(key=self._of[id(lowered)])]

    def tune(self, networks: Sequence[LoweredNetwork], *, on_progress: Any) -> Any:
        for lowered in networks:
            self._stage("tuning", self._of[id(lowered)], 0.02)
        kernels = [SimpleNamespace(key=self._of[id(one)], schedules=8) for one in networks]
        return SimpleNamespace(kernels=kernels, duration_s=1.0)

    def kernels_us(self, lowered: LoweredNetwork) -> float | None:
        return None

    def compile(self, lowered: LoweredNetwork, path: Path) -> CompiledArtifact:
        path.write_text("")
        self._stage("compiling", self._of[id(lowered)], 0.01)
        return CompiledArtifact(path, 3, 3, 24, 1.0, 1000, SHAPE, "float32")

    def check_network(self, artifact: CompiledArtifact, judge: Any, *, seed: int) -> None:
        return None

    def measure(self, artifact: CompiledArtifact) -> Any:
        self._stage("measuring", artifact.path.stem, 0.05)
        return make_latency(0.05)


@dataclass
class Place:
    """A pipeline whose parts sleep."""

    clock: Clock
    pipeline: CandidatePipeline
    directory: Path


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    monkeypatch.setattr(
        "tvm_mnas.models.candidates.build_candidate",
        lambda candidate, *, seed: SimpleNamespace(
            notation=candidate.notation, eval=lambda: SimpleNamespace(notation=candidate.notation)
        ),
    )
    monkeypatch.setattr(
        "tvm_mnas.evaluation.pipeline.torch_judge", lambda network, batch_size: None
    )

    def new(
        *,
        jobs: int = 4,
        devices: int = 2,
        local: bool = False,
        training_s: Callable[[Candidate], float] = lambda candidate: 0.1,
        errors: dict[str, dict[str, TvmMnasError]] | None = None,
    ) -> Place:
        clock = Clock()
        errors = errors or {}
        executor: Any = Threads(
            clock, jobs=jobs, training_s=training_s, errors=errors.get("training", {})
        )
        bench: Any = Bench(clock, devices=devices, local=local, errors=errors)
        observer: Any = SimpleNamespace(stage=lambda *a: None, note=lambda text: None)
        pipeline = CandidatePipeline(
            SearchConfig(), Recipe(steps=5), ("cpu",), bench, executor, tmp_path, observer
        )
        return Place(clock, pipeline, tmp_path)

    return new


class Source:
    """Candidates to be taken, some after each result."""

    def __init__(self, candidates: Sequence[Candidate], *, first: int) -> None:
        self.waiting, self._later = list(candidates[:first]), list(candidates[first:])

    def take(self, most: int | None = None) -> list[Candidate]:
        taken, self.waiting = self.waiting[:most], self.waiting[len(self.waiting[:most]) :]
        return taken

    def more(self) -> None:
        self.waiting += self._later[:1]
        self._later = self._later[1:]


def run(
    place: Place, candidates: Sequence[Candidate] = CANDIDATES, *, first: int = 12
) -> list[tuple[Candidate, Evaluation]]:
    source = Source(candidates, first=first)
    found = []
    for candidate, evaluation in StreamingPipeline(place.pipeline).stream(source):
        found.append((candidate, evaluation))
        source.more()
    return found


def plain(evaluation: Evaluation) -> Evaluation:
    """Without what the clock says."""
    effort = replace(evaluation.effort, compiling_s=0.0, measuring_s=0.0, tuning_s=0.0)
    return replace(evaluation, effort=effort)


FAULTS: dict[str, dict[str, TvmMnasError]] = {
    "training": {CANDIDATES[1].id: TrainingError("the loss is NaN")},
    "lowering": {CANDIDATES[2].id: LoweringError("an operator is unknown")},
    "compiling": {CANDIDATES[3].id: BuildError("no register is left")},
    "measuring": {CANDIDATES[4].id: MeasurementError("the outputs are wrong")},
}


@pytest.mark.parametrize("first", [1, 5, 12])
def test_each_candidate_is_evaluated_as_in_a_batch(make: Callable[..., Place], first: int) -> None:
    streamed = dict(run(make(errors=FAULTS), first=first))
    batch = make(errors=FAULTS).pipeline.evaluate(CANDIDATES)
    expected = {CANDIDATES[index]: evaluation for index, evaluation in batch}
    assert len(streamed) == len(CANDIDATES)
    for candidate, evaluation in expected.items():
        assert plain(streamed[cast(Any, candidate)]) == plain(evaluation)
    stages = [evaluation.failure.stage for evaluation in expected.values() if evaluation.failure]
    assert sorted(stages) == sorted(FAULTS)


def test_stages_overlap_and_each_has_its_bound(make: Callable[..., Place]) -> None:
    place = make(jobs=3, devices=2)
    found = run(place)
    assert len(found) == 12
    clock = place.clock
    assert clock.overlap("training", "measuring")
    assert clock.overlap("training", "tuning")
    assert clock.most_at_once("training") == 3
    assert clock.most_at_once("measuring") == 2
    assert clock.most_at_once("lowering", "tuning", "compiling") == 1
    assert list(place.directory.iterdir()) == []


def test_in_a_batch_nothing_is_trained_while_something_is_measured(
    make: Callable[..., Place],
) -> None:
    place = make(local=True, devices=1)
    assert len(list(place.pipeline.evaluate(CANDIDATES[:6]))) == 6
    for work in ("tuning", "compiling", "measuring"):
        assert not place.clock.overlap("training", work)


def test_who_is_slow_holds_nobody_up(make: Callable[..., Place]) -> None:
    slow = CANDIDATES[0]
    place = make(jobs=2, training_s=lambda candidate: 1.5 if candidate == slow else 0.05)
    found = run(place)
    assert found[-1][0] == slow
    assert len(found) == 12


def test_new_kernels_are_tuned_while_their_candidates_train(make: Callable[..., Place]) -> None:
    place = make(jobs=12, training_s=lambda candidate: 0.8)
    run(place)
    trained = min(ended for name, _, ended in place.clock.spans if name == "training")
    tuned = max(ended for name, _, ended in place.clock.spans if name == "tuning")
    assert tuned < trained


@pytest.mark.parametrize("stage", ["tuning", "measuring"])
def test_a_device_that_stays_lost_ends_the_stream(make: Callable[..., Place], stage: str) -> None:
    place = make(errors={stage: {CANDIDATES[5].id: DeviceLostError("the device is gone")}})
    with pytest.raises(DeviceLostError, match="the device is gone"):
        run(place)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("tvm-mnas-compile", "tvm-mnas-measure")) for name in names)


def test_data_that_is_gone_ends_the_stream(make: Callable[..., Place]) -> None:
    place = make(errors={"training": {CANDIDATES[5].id: DataError("the images are gone")}})
    with pytest.raises(DataError, match="the images are gone"):
        run(place)


def test_the_pipeline_is_a_stream(make: Callable[..., Place]) -> None:
    assert isinstance(StreamingPipeline(make().pipeline), StreamEvaluator)
    assert not isinstance(make().pipeline, StreamEvaluator)
