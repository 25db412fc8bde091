"""Candidates on their way side by side: training, tuning, compiling and measuring at the same time.

One thread, the search's own, submits trainings, hears of their ends and decides what comes next. A second one does all
that the compiler does, one thing at a time: what is ready to be measured first, then new kernels, while their
candidates still train. One thread for each device of the farm checks and measures. So who is slow holds nobody up.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tvm_mnas.errors import CandidateError
from tvm_mnas.evaluation.executors.protocol import Executor, TaskOutcome
from tvm_mnas.evaluation.pipeline import CandidatePipeline, Underway
from tvm_mnas.evaluation.results import CandidateSource, Evaluation
from tvm_mnas.evaluation.trainers import TrainTask, run_training

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.space.candidate import Candidate
    from tvm_mnas.training.accuracy import Accuracy

Job = Callable[[], Callable[[], None]]
"""What one of the workers does; it returns what is to be called where the stream waits."""

_POLL_S = 0.05
_LOOK_S = 0.005
_JOIN_S = 5.0
_URGENT, _LATER = 0, 1


@dataclass(eq=False)
class _Flying:
    """A candidate on its way: what is known of it, its training, and what went wrong."""

    candidate: Underway
    trained: bool = False
    accuracy: Accuracy | None = None
    prepared: bool = False
    failure: tuple[str, CandidateError] | None = None


@dataclass(frozen=True)
class StreamingPipeline:
    """What `pipeline` does, with stages that overlap: for a device that is not this machine."""

    pipeline: CandidatePipeline

    def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        """Yield `(index, evaluation)` of each architecture, one stage of all after the other."""
        return self.pipeline.evaluate(architectures)

    def stream(self, source: CandidateSource) -> Iterator[tuple[Candidate, Evaluation]]:
        """Yield the candidates of `source` with their evaluations, as each is done.

        Raises:
            DeviceError: if the device stays lost; the candidates not yet yielded are then unevaluated.
        """
        return Stream(self.pipeline, source).run()


class Workers(Protocol):
    """Some that take jobs, the urgent ones first, each doing one at a time."""

    def put(self, priority: int, work: Job) -> None:
        """Have `work` called; what it returns is called in turn where the stream waits."""
        ...

    def end(self) -> None:
        """Take no more jobs, and end."""
        ...


class Engine(Protocol):
    """What does the jobs of a stream: threads, or in a simulation nobody, on a clock of its own."""

    def workers(self, name: str, count: int) -> Workers:
        """Return `count` new workers."""
        ...

    def wait(self, executor: Executor, *, training: bool) -> None:
        """Wait for something to end, a job or if any is under way a `training`, and call what it left to be called."""
        ...


class Stream:
    """The candidates of `source` on their way through `pipeline`."""

    def __init__(
        self, pipeline: CandidatePipeline, source: CandidateSource, *, engine: Engine | None = None
    ) -> None:
        self._pipeline, self._source = pipeline, source
        self._engine = engine or ThreadEngine()
        self._compiler = self._engine.workers("compile", 1)
        self._devices = self._engine.workers("measure", pipeline.toolchain.farm.capacity)
        self._flying: list[_Flying] = []
        self._ended: deque[tuple[Candidate, Evaluation]] = deque()
        self._count = 0

    def run(self) -> Iterator[tuple[Candidate, Evaluation]]:
        """Yield each candidate with its evaluation, as each is done.

        Raises what a stage raises that is no candidate's fault; what is on its way then is unevaluated.
        """
        try:
            while True:
                for candidate in self._source.take():
                    self._begin(candidate)
                if not self._flying:
                    return
                training = any(not one.trained for one in self._flying)
                self._engine.wait(self._pipeline.executor, training=training)
                self._show()
                while self._ended:
                    yield self._ended.popleft()
        finally:
            self._compiler.end()
            self._devices.end()

    def _begin(self, candidate: Candidate) -> None:
        flying = _Flying(Underway(self._count, candidate))
        self._count += 1
        self._flying.append(flying)
        pipeline = self._pipeline
        task = TrainTask.of(candidate, pipeline.config, pipeline.recipe, pipeline.devices)
        pipeline.executor.submit(run_training, task, partial(self._trained, flying))
        self._compiler.put(_LATER, partial(self._prepare, flying))

    def _show(self) -> None:
        training = sum(not one.trained for one in self._flying)
        preparing = sum(not one.prepared for one in self._flying)
        self._pipeline.observer.stage(
            f"{training} training, {preparing} waiting for kernels",
            self._count - len(self._flying),
            self._count,
        )

    def _trained(self, flying: _Flying, outcome: TaskOutcome[Accuracy]) -> None:
        flying.trained = True
        if isinstance(outcome.error, CandidateError):
            flying.failure = "training", outcome.error
        else:
            flying.accuracy = outcome.get()
        self._go_on(flying)

    def _prepare(self, flying: _Flying) -> Callable[[], None]:
        """Lower and tune, in the compiler's thread; return what is to be done then in the search's."""
        failure: tuple[str, CandidateError] | None = None
        if flying.failure is None:
            try:
                self._pipeline.lower(flying.candidate)
                self._pipeline.tune([flying.candidate])
            except CandidateError as error:
                failure = "lowering", error
        return partial(self._prepared, flying, failure)

    def _prepared(self, flying: _Flying, failure: tuple[str, CandidateError] | None) -> None:
        flying.prepared = True
        flying.failure = flying.failure or failure
        self._go_on(flying)

    def _go_on(self, flying: _Flying) -> None:
        if not flying.trained or not (flying.prepared or flying.failure):
            return
        # Not before: until it is prepared, the compiler's thread has the candidate.
        if flying.accuracy is not None:
            flying.candidate.train(flying.accuracy)
        if flying.failure is not None:
            # Its training counts, as it would have in a batch.
            self._end(flying, flying.candidate.failed(*flying.failure)[1])
            return
        self._compiler.put(_URGENT, partial(self._build, flying))

    def _build(self, flying: _Flying) -> Callable[[], None]:
        try:
            artifact = self._pipeline.build(flying.candidate)
        except CandidateError as error:
            return partial(self._failed, flying, "compiling", error)
        return lambda: self._devices.put(_URGENT, partial(self._measure, flying, artifact))

    def _measure(self, flying: _Flying, artifact: CompiledArtifact) -> Callable[[], None]:
        try:
            evaluation = self._pipeline.time(flying.candidate, artifact)
        except CandidateError as error:
            return partial(self._failed, flying, "measuring", error)
        finally:
            artifact.path.unlink(missing_ok=True)
        return partial(self._end, flying, evaluation)

    def _failed(self, flying: _Flying, stage: str, error: CandidateError) -> None:
        self._end(flying, flying.candidate.failed(stage, error)[1])

    def _end(self, flying: _Flying, evaluation: Evaluation) -> None:
        # Twice for one whose training failed while its kernels were on their way.
        if flying in self._flying:
            self._flying.remove(flying)
            self._ended.append((flying.candidate.architecture, evaluation))


class ThreadEngine:
    """Does jobs in threads."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def workers(self, name: str, count: int) -> Workers:
        """Return `count` threads."""
        return _Threads(name, count, self._events)

    def wait(self, executor: Executor, *, training: bool) -> None:
        """Wait for a job to end, or look now and then whether a training has."""
        if training:
            executor.poll(_POLL_S)
        try:
            self._events.get(timeout=_LOOK_S if training else None)()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            pass


@dataclass(order=True)
class _Queued:
    priority: int
    number: int
    work: Job | None = field(compare=False)


class _Threads:
    """Threads that take jobs; what a job returns goes to `events`, as does what it raises."""

    def __init__(
        self, name: str, count: int, events: queue.SimpleQueue[Callable[[], None]]
    ) -> None:
        self._jobs: queue.PriorityQueue[_Queued] = queue.PriorityQueue()
        self._events = events
        self._put = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"tvm-mnas-{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, priority: int, work: Job) -> None:
        """Have `work` called in one of the threads."""
        self._put += 1
        self._jobs.put(_Queued(priority, self._put, work))

    def end(self) -> None:
        """End the threads after what they are at, and wait for that a moment: a device that hangs has its deadline."""
        for number in range(len(self._threads)):
            self._jobs.put(_Queued(-1, -number, None))
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _work(self) -> None:
        while (work := self._jobs.get().work) is not None:
            try:
                self._events.put(work())
            except BaseException as error:
                self._events.put(partial(_raise, error))


def _raise(error: BaseException) -> None:
    raise error
