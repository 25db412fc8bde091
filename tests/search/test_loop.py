"""The loop: whatever interrupts a search, what comes out is what would have come out without."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import DeviceLostError, RunError, TvmMnasError
from tvm_mnas.evaluation.results import CandidateSource, Effort, Evaluation, Failure
from tvm_mnas.search.algorithms.batches import CANDIDATE_FAULT
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.search.session import sampler_of
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.testing import SyntheticCandidates

FAILURE_RATE = 0.2
TINY_SPACE = """
name = "tiny"
[input]
size = 16
channels = 3
classes = 10
[stem]
filters = 8
stride = 2
[head]
filters = 32
[choices]
conv_op = ["sepconv", "mbconv3"]
kernel_size = [3, 5]
skip_op = ["identity"]
se_ratio = [0.0]
filter_scale = [1.0]
layer_delta = [0, 1]
[[blocks]]
resolution = 8
stride = 1
filters = 8
layers = 1
"""
"""Eight architectures: a search of more trials than that meets some again."""


class Crash(BaseException):
    """The process is gone; nothing of it is left but its files."""


class Synthetic(SyntheticCandidates):
    """A deterministic evaluator that takes its candidates in an order of its own and counts them."""

    def __init__(
        self, space: SearchSpace, *, failure_rate: float = FAILURE_RATE, delay_s: float = 0.0
    ) -> None:
        super().__init__(space, failure_rate=failure_rate)
        self.calls: list[str] = []
        self._delay_s = delay_s

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        for index in reversed(range(len(candidates))):
            self.calls.append(candidates[index].id)
            time.sleep(self._delay_s)
            yield index, self.evaluation(candidates[index])


class Streaming(Synthetic):
    """Takes a few candidates at a time while others are under way, and finishes any of those."""

    def stream(self, source: CandidateSource) -> Iterator[tuple[Candidate, Evaluation]]:
        order = random.Random(len(self.calls))
        flying = source.take(3)
        while flying:
            candidate = flying.pop(order.randrange(len(flying)))
            self.calls.append(candidate.id)
            time.sleep(self._delay_s)
            yield candidate, self.evaluation(candidate)
            flying += source.take(order.randrange(4) if flying else None)


def new_run(
    path: Path, *, space: str, algorithm: str, trials: int, batch: int = 4, lag: int = 0
) -> RunDirectory:
    config = SearchConfig(
        space=space,
        algorithm=algorithm,
        trials=trials,
        batch=batch,
        lag=lag,
        target_latency_ms=80.0,
    )
    return RunDirectory.create(path, config)


def go_on(
    path: Path,
    evaluator: Callable[[SearchSpace], Synthetic] = Synthetic,
    *,
    on_trial: Callable[[TrialRecord], None] = lambda record: None,
) -> Synthetic:
    """Work on the run in `path` as a process that knows nothing but its files."""
    run = RunDirectory.open(path)
    space = load_space(run.config.space)
    with run.lock():
        used = evaluator(space)
        run_trials(run, space, run.study(sampler_of(run, space)), used, on_trial=on_trial)
    return used


def trials_of(path: Path) -> list[dict[str, Any]]:
    """Everything that a search decided or found, in the order of the trials."""
    return [
        {
            "number": trial.number,
            "params": trial.params,
            "values": trial.values,
            "state": trial.state,
            "attributes": trial.user_attrs,
        }
        for trial in RunDirectory.open(path).study().get_trials()
    ]


def controller_of(path: Path) -> tuple[dict[str, str], dict[str, bytes]] | None:
    """The controller's checkpoint: metadata, and the bytes of each tensor; None where there is none."""
    file = RunDirectory.open(path).controller
    if not file.exists():
        return None
    from safetensors.torch import load_file

    from tvm_mnas.search.algorithms.ppo import read_metadata

    # The file's own bytes differ from one save to the next: safetensors shuffles the metadata.
    return read_metadata(file), {
        name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()
    }


def assert_equal_runs(path: Path, expected: Path) -> None:
    assert trials_of(path) == trials_of(expected)
    assert controller_of(path) == controller_of(expected)


def assert_complete(path: Path, trials: int) -> None:
    """Exactly the trials asked for: none lost, none twice, all finished."""
    run = RunDirectory.open(path)
    records = run.finished_trials()
    assert [record.number for record in records] == list(range(trials))
    assert len(run.study().get_trials()) == trials


Finished = Callable[[str, str, int], Path]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Here processes die, the power doesn't: what is written stays written, and sooner. And the run's own
    # lock is enough for one process; the killed ones below have Optuna's too.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(JournalFileOpenLock, "acquire", lambda lock: True)
    monkeypatch.setattr(JournalFileOpenLock, "release", lambda lock: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a function that returns the uninterrupted run of a space, an algorithm and a length."""
    made: dict[tuple[str, str, int], Path] = {}

    def make(space: str, algorithm: str, trials: int) -> Path:
        key = (space, algorithm, trials)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("uninterrupted") / "run"
            new_run(made[key], space=space, algorithm=algorithm, trials=trials)
            go_on(made[key])
        return made[key]

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY_SPACE)
    return str(file)


class Fuse:
    """Ends the process, so to say, at the n-th write to a journal: before it or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = -1
        self._before = False
        append = JournalFileBackend.append_logs

        def append_or_crash(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            self._left -= 1
            if self._left == 0 and self._before:
                raise Crash
            append(backend, logs)
            if self._left == 0:
                raise Crash

        monkeypatch.setattr(JournalFileBackend, "append_logs", append_or_crash)

    def light(self, writes: int, *, before: bool) -> None:
        self._left, self._before = writes, before


def crash_until_finished(
    path: Path,
    fuse: Fuse,
    rng: random.Random,
    *,
    longest: int,
    evaluator: Callable[[SearchSpace], Synthetic] = Synthetic,
) -> int:
    """Go on with the run until it is finished; return how often that crashed."""
    crashes = 0
    while True:
        fuse.light(rng.randint(1, longest), before=rng.random() < 0.5)
        try:
            go_on(path, evaluator)
        except Crash:
            crashes += 1
        else:
            fuse.light(-1, before=False)
            return crashes


@pytest.mark.parametrize("space", ["quickstart", "mnasnet"])
@pytest.mark.parametrize("algorithm", ["ppo", "evolution", "random"])
def test_a_search_that_crashed_at_any_write_ends_as_without(
    space: str, algorithm: str, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finished(space, algorithm, 20)
    states = [trial["state"] for trial in trials_of(expected)]
    assert {TrialState.COMPLETE, TrialState.FAIL} == set(states)
    run = new_run(tmp_path / "run", space=space, algorithm=algorithm, trials=20)
    rng = random.Random(f"{space}/{algorithm}")
    crashes = crash_until_finished(run.path, Fuse(monkeypatch), rng, longest=12)
    assert crashes >= 5
    assert_complete(run.path, 20)
    assert_equal_runs(run.path, expected)


@pytest.mark.parametrize("algorithm", ["ppo", "evolution"])
@pytest.mark.parametrize("lag", [1, 3])
def test_with_batches_in_flight_neither_order_nor_crashes_matter(
    algorithm: str, lag: int, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight architectures in 26 trials: many meet one that is under way for an earlier trial."""
    runs = [
        new_run(tmp_path / name, space=tiny, algorithm=algorithm, trials=26, lag=lag).path
        for name in ("batches", "stream", "crashed")
    ]
    in_batches = go_on(runs[0])
    streamed = go_on(runs[1], Streaming)
    assert sorted(set(streamed.calls)) == sorted(set(in_batches.calls))
    assert_equal_runs(runs[1], runs[0])
    rng = random.Random(f"{algorithm}/{lag}")
    crashes = crash_until_finished(runs[2], Fuse(monkeypatch), rng, longest=12, evaluator=Streaming)
    assert crashes >= 3
    assert_complete(runs[2], 26)
    assert_equal_runs(runs[2], runs[0])


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_so_many_batches_are_in_flight_and_no_more(lag: int, tmp_path: Path) -> None:
    path = new_run(tmp_path / "run", space="mnasnet", algorithm="ppo", trials=20, lag=lag).path
    flying: list[int] = []

    class Holding(Synthetic):
        def stream(self, source: CandidateSource) -> Iterator[tuple[Candidate, Evaluation]]:
            held: list[Candidate] = []
            while True:
                held += source.take()
                if not held:
                    return
                flying.append(len(held))
                # The newest first: the oldest batch is the last to be complete.
                candidate = held.pop()
                yield candidate, self.evaluation(candidate)

    go_on(path, lambda space: Holding(space, failure_rate=0.0))
    assert max(flying) == min(20, (lag + 1) * 4)
    assert_complete(path, 20)


def test_a_candidate_that_a_stream_leaves_out_is_told(tmp_path: Path) -> None:
    class Forgetful(Synthetic):
        def stream(self, source: CandidateSource) -> Iterator[tuple[Candidate, Evaluation]]:
            yield from ((c, self.evaluation(c)) for c in source.take()[1:])

    path = new_run(tmp_path / "run", space="mnasnet", algorithm="random", trials=8).path
    with pytest.raises(RunError, match="was left out"):
        go_on(path, Forgetful)


def fail_within_a_batch(path: Path) -> None:
    class Failing(Synthetic):
        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            for number, item in enumerate(super().evaluate(architectures)):
                if number == 2:
                    raise DeviceLostError("the device is gone")
                yield item

    with pytest.raises(DeviceLostError):
        go_on(path, Failing)


def fail_between_ask_and_tell(path: Path) -> None:
    class Failing(Synthetic):
        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            if len(trials_of(path)) > 8:
                raise Crash
            yield from super().evaluate(architectures)

    with pytest.raises(Crash):
        go_on(path, Failing)


def interrupt_in_on_trial(path: Path) -> None:
    def interrupt(record: TrialRecord) -> None:
        if record.number == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(path, on_trial=interrupt)


def lose_the_controller(path: Path) -> None:
    interrupt_in_on_trial(path)
    RunDirectory.open(path).controller.unlink()


def tear_the_controller(path: Path) -> None:
    interrupt_in_on_trial(path)
    file = RunDirectory.open(path).controller
    file.write_bytes(file.read_bytes()[:-100])


def put_back_an_old_controller(path: Path) -> None:
    with pytest.raises(DeviceLostError):
        fail_after_a_batch(path)
    file = RunDirectory.open(path).controller
    old = file.read_bytes()
    interrupt_in_on_trial(path)
    assert file.read_bytes() != old
    file.write_bytes(old)


def fail_after_a_batch(path: Path) -> None:
    class Failing(Synthetic):
        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            yield from super().evaluate(architectures)
            if len(trials_of(path)) == 8:
                raise DeviceLostError("the device is gone")

    go_on(path, Failing)


def tear_the_journal(path: Path) -> None:
    interrupt_in_on_trial(path)
    file = path / "study.journal"
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    "interrupt",
    [
        fail_within_a_batch,
        fail_between_ask_and_tell,
        interrupt_in_on_trial,
        lose_the_controller,
        tear_the_controller,
        put_back_an_old_controller,
        tear_the_journal,
    ],
)
def test_a_search_that_was_interrupted_ends_as_without(
    interrupt: Callable[[Path], None], finished: Finished, tmp_path: Path
) -> None:
    expected = finished("quickstart", "ppo", 20)
    run = new_run(tmp_path / "run", space="quickstart", algorithm="ppo", trials=20)
    interrupt(run.path)
    assert 0 < len(trials_of(run.path)) < 20
    go_on(run.path)
    assert_complete(run.path, 20)
    assert_equal_runs(run.path, expected)


def work(path: str) -> None:
    """What the process does that is killed: slowly enough to be met at it."""
    go_on(Path(path), lambda space: Synthetic(space, delay_s=0.03))


def journal_lines(path: Path) -> int:
    file = path / "study.journal"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def start_and_kill(path: Path, lines: int, delay_s: float) -> None:
    """Start a process that works on the run and `kill -9` it a moment after its journal has `lines` lines."""
    context = multiprocessing.get_context("forkserver")
    # Every process is a new one, but what takes seconds to import is imported once.
    context.set_forkserver_preload(
        ["tvm_mnas.search.algorithms.ppo", "tvm_mnas.search.algorithms.evolution"]
    )
    process = context.Process(target=work, args=(str(path),))
    process.start()
    try:
        while journal_lines(path) < lines and process.is_alive():
            time.sleep(0.002)
        time.sleep(delay_s)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"


@pytest.mark.parametrize(
    ("space", "algorithm"), [("mnasnet", "ppo"), ("quickstart", "evolution")], ids=str
)
def test_a_search_that_was_killed_three_times_ends_as_without(
    space: str, algorithm: str, finished: Finished, tmp_path: Path
) -> None:
    expected = finished(space, algorithm, 20)
    run = new_run(tmp_path / "run", space=space, algorithm=algorithm, trials=20)
    total = journal_lines(expected)
    rng = random.Random()
    moments = sorted(rng.randrange(1, total * 3 // 4) for _ in range(3))
    for lines in moments:
        # Each goes some way beyond where the one before it ended.
        start_and_kill(run.path, max(lines, journal_lines(run.path) + 3), rng.uniform(0.0, 0.05))
    go_on(run.path)
    assert_complete(run.path, 20)
    assert_equal_runs(run.path, expected)


def test_a_failed_candidate_is_a_trial_without_a_reward(finished: Finished) -> None:
    run = RunDirectory.open(finished("quickstart", "ppo", 20))
    trials = run.study().get_trials()
    records = run.finished_trials()
    failed = [record for record in records if record.evaluation.failure is not None]
    assert 0 < len(failed) < 20
    for record in failed:
        assert record.reward is None
        assert trials[record.number].state == TrialState.FAIL
        assert trials[record.number].values is None
    for record in records:
        if record not in failed:
            objectives = record.evaluation.objectives
            assert objectives is not None
            assert tuple(trials[record.number].values) == objectives
            assert record.reward == run.reward(*objectives)


@pytest.mark.parametrize("algorithm", ["ppo", "evolution", "random", "tpe", "nsga2"])
def test_every_algorithm_finishes_and_tells_each_trial_once(
    algorithm: str, tiny: str, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", space=tiny, algorithm=algorithm, trials=10)
    told: list[TrialRecord] = []
    go_on(run.path, on_trial=told.append)
    assert_complete(run.path, 10)
    assert sorted(told, key=lambda record: record.number) == list(run.finished_trials())


def test_a_candidate_met_again_is_not_evaluated_again(tiny: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", space=tiny, algorithm="random", trials=24)
    used = go_on(run.path, lambda space: Synthetic(space, failure_rate=0.5))
    records = run.finished_trials()
    first: dict[str, TrialRecord] = {}
    for record in records:
        first.setdefault(record.evaluation.architecture.id, record)
    failed = [id for id, record in first.items() if record.reward is None]
    assert sorted(used.calls) == sorted([*first, *failed]), "each once, those that failed twice"
    repeats = [record for record in records if record.repeats is not None]
    assert len(repeats) == len(records) - len(first)
    for record in repeats:
        original = first[record.evaluation.architecture.id]
        assert record.repeats == original.number < record.number
        assert (record.evaluation, record.reward) == (original.evaluation, original.reward)
    batches = [(record.number // 4, (record.repeats or 0) // 4) for record in repeats]
    assert any(own == other for own, other in batches), "none met within its batch"
    assert any(own != other for own, other in batches), "none met across batches"
    assert any(record.reward is None for record in repeats), "none failed"


def test_a_candidate_met_again_after_a_resume_is_not_evaluated_again(
    tiny: str, tmp_path: Path
) -> None:
    expected = new_run(tmp_path / "whole", space=tiny, algorithm="random", trials=24)
    go_on(expected.path)
    run = new_run(tmp_path / "run", space=tiny, algorithm="random", trials=24)
    calls: list[str] = []

    class Counting(Synthetic):
        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            for index, evaluation in super().evaluate(architectures):
                calls.append(architectures[index].id)
                yield index, evaluation

    for last in range(1, 24, 3):

        def stop(record: TrialRecord, last: int = last) -> None:
            if record.number >= last:
                raise Crash

        with pytest.raises(Crash):
            go_on(run.path, Counting, on_trial=stop)
    go_on(run.path, Counting)
    assert_equal_runs(run.path, expected.path)
    failed = {r.evaluation.architecture.id for r in run.finished_trials() if r.reward is None}
    for candidate in set(calls) - failed:
        assert calls.count(candidate) == 1
    # Ended between its attempts, a candidate is as one that was never tried.
    assert all(2 <= calls.count(candidate) <= 3 for candidate in failed)


def test_a_failure_is_told_after_a_second_attempt_and_a_success_there_counts(
    tiny: str, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", space=tiny, algorithm="random", trials=8)

    class Moody(Synthetic):
        """At its first attempt everything fails, and half of it at the second."""

        def __init__(self, space: SearchSpace) -> None:
            super().__init__(space, failure_rate=0.5)
            self.rounds: list[list[str]] = []

        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            self.rounds.append([architecture.id for architecture in architectures])
            if len(self.rounds) % 2 == 0:
                yield from super().evaluate(architectures)
                return
            for index, architecture in enumerate(architectures):
                failure = Failure("compiling", "BuildError", "the linker was killed")
                effort = Effort(training_s=3.0, compiling_s=2.0, kernels=12, kernels_tuned=5)
                yield index, Evaluation.failed(architecture, failure, effort)

    used = go_on(run.path, Moody)
    assert isinstance(used, Moody)
    assert used.rounds[0::2] == used.rounds[1::2]
    records = [record for record in run.finished_trials() if record.repeats is None]
    assert {record.reward is None for record in records} == {True, False}
    for record in records:
        failure, effort = record.evaluation.failure, record.evaluation.effort
        if failure is None:
            assert effort == Effort(training_s=7.0, compiling_s=2.0, kernels=12, kernels_tuned=5)
        else:
            assert failure.stage == "training"
            assert (effort.training_s, effort.compiling_s) == (4.0, 2.0)
    for trial in run.study().get_trials():
        assert (trial.user_attrs.get(CANDIDATE_FAULT) is True) is (trial.state == TrialState.FAIL)


def test_repeats_survive_a_crash_at_any_write(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = new_run(tmp_path / "whole", space=tiny, algorithm="evolution", trials=24)
    go_on(expected.path)
    run = new_run(tmp_path / "run", space=tiny, algorithm="evolution", trials=24)
    crash_until_finished(run.path, Fuse(monkeypatch), random.Random(7), longest=8)
    assert_complete(run.path, 24)
    assert_equal_runs(run.path, expected.path)


@pytest.mark.parametrize("algorithm", ["ppo", "evolution"])
@pytest.mark.parametrize("at_first", [8, 6], ids=["whole batches", "half a batch"])
def test_an_extended_search_equals_one_that_asked_for_more(
    algorithm: str, at_first: int, finished: Finished, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", space="quickstart", algorithm=algorithm, trials=at_first)
    go_on(run.path)
    assert_complete(run.path, at_first)
    RunDirectory.open(run.path).changed({"trials": 20})
    go_on(run.path)
    assert_complete(run.path, 20)
    assert_equal_runs(run.path, finished("quickstart", algorithm, 20))


def test_the_last_batch_teaches_too(finished: Finished) -> None:
    controller = controller_of(finished("quickstart", "ppo", 20))
    assert controller is not None
    metadata, tensors = controller
    assert metadata["updates_done"] == "5"
    assert any(name.startswith("controller.lstm") for name in tensors)


def test_a_finished_search_is_left_alone(finished: Finished) -> None:
    path = finished("quickstart", "ppo", 20)
    before = (path / "study.journal").read_bytes(), controller_of(path)
    assert go_on(path).calls == []
    assert ((path / "study.journal").read_bytes(), controller_of(path)) == before


def test_a_lost_device_keeps_what_was_finished(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", space="quickstart", algorithm="random", trials=8)
    fail_within_a_batch(run.path)
    assert len(run.finished_trials()) == 2
    assert len(trials_of(run.path)) == 4


def test_an_evaluator_that_leaves_a_candidate_out_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Synthetic):
        def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
            yield from super().evaluate(architectures[1:])

    run = new_run(tmp_path / "run", space="quickstart", algorithm="random", trials=8)
    with pytest.raises(RunError, match="left out"):
        go_on(run.path, Forgetful)


def test_a_search_does_not_go_on_in_a_space_that_changed(tiny: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", space=tiny, algorithm="random", trials=4)
    go_on(run.path)
    run.changed({"trials": 8})
    Path(tiny).write_text(TINY_SPACE.replace("[3, 5]", "[3, 7]"))
    with pytest.raises(RunError, match="changed since") as caught:
        go_on(run.path)
    assert "\n" not in str(caught.value)
    assert len(trials_of(run.path)) == 4
    Path(tiny).write_text(TINY_SPACE)
    go_on(run.path)
    assert_complete(run.path, 8)


def test_an_evaluation_that_cannot_be_read_ends_the_search(tiny: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", space=tiny, algorithm="random", trials=4)
    go_on(run.path)
    journal = run.path / "study.journal"
    damaged = journal.read_text().replace('"architecture":"i16', '"architecture":"x16')
    journal.write_text(damaged)
    with pytest.raises(TvmMnasError, match="evaluation of trial 0"):
        go_on(run.path)
    assert journal.read_text() == damaged
