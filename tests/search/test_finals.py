"""The end of a search on a device whose speed changes under it: the ranking is that of a steady device.

The device is scripted, and everything above it is what a search runs: loop, pipeline, timing, reference kernel.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from tvm_mnas.compiler.build.artifact import CompiledArtifact
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.farm.channel import WorkerReply, WorkerStatus
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.lease import Lease
from tvm_mnas.devices.farm.reference import Reference, ReferenceWatch
from tvm_mnas.errors import CandidateError, MeasurementError
from tvm_mnas.evaluation.executors.inline import InlineExecutor
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.toolchain import Toolchain
from tvm_mnas.evaluation.trainers import TrainTask
from tvm_mnas.plugins import reference_of
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler
from tvm_mnas.search.finals import FINAL_ROUNDS, MOST_AGAIN, settle_latencies, time_finalists
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.pareto import Point, pareto_front
from tvm_mnas.search.result import pick_finalists
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.space.network_space import ChosenNetwork, NetworkSpace
from tvm_mnas.training.accuracy import Accuracy

TRIALS = 60
SHAPE = (1, 3, 8, 8)
FINALISTS = 3
PROFILE = DeviceProfile(
    key="board",
    target='{"kind": "llvm", "num-cores": 1}',
    tracker=None,
    timing=TimingSettings(max_spread=0.05, attempts=3),
)
REFERENCE = Reference(path=Path("reference.so"), arguments=())


def build(choices: Mapping[str, Any]) -> nn.Module:
    """Return a network that is never run: images (N,3,8,8) -> logits (N,10)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))


SPACE = NetworkSpace(
    "scripted",
    {"size": tuple(range(1, 41)), "twist": tuple(range(8))},
    build,
    image_shape=SHAPE,
    classes=10,
)


def choices_of(notation: str) -> Mapping[str, Any]:
    candidate = parse_candidate(notation)
    assert isinstance(candidate, ChosenNetwork)
    return dict(candidate.choices)


def true_ms(notation: str) -> float:
    """What the network takes on the steady device: larger ones longer, some by 3% more or less than others."""
    size, twist = choices_of(notation).values()
    return float(0.5 + 0.1 * size) * float(1.0 + 0.01 * (twist - 4))


def top1(notation: str) -> float:
    """Larger ones are more accurate, by less and less; and some by luck."""
    size, _ = choices_of(notation).values()
    return float(0.8 - 0.3 / (1 + 0.15 * size) + 0.02 * random.Random(notation).random())


@dataclass
class Script:
    """A device whose speed is a function of how many networks it timed; everything else on it takes 0.3% at most."""

    speed_after: Callable[[int], float]
    timed: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def time_s(self, steady_s: float) -> float:
        return steady_s * self.speed_after(self.timed) * (1.0 + self.rng.uniform(-0.003, 0.003))


class ScriptedLease:
    """Answers as a leased device does; a network's file holds its steady time."""

    name = "board:1"
    fingerprint = SimpleNamespace(digest="scripted")

    def __init__(self, script: Script) -> None:
        self._script = script
        self._steady_s = 0.0

    def load_network(self, path: Path, *_: object, **__: object) -> WorkerReply:
        text = path.read_text()
        if text == "broken":
            return WorkerReply(WorkerStatus.FAILED, {"message": "it has no main"})
        self._steady_s = 1e-3 * float(text)
        return WorkerReply(WorkerStatus.OK)

    def time_network(self, timing: TimingSettings, *, deadline_s: float) -> WorkerReply:
        self._script.timed += 1
        samples_s = [self._script.time_s(self._steady_s) for _ in range(5)]
        return WorkerReply(WorkerStatus.OK, {"samples_s": samples_s})

    def time_reference(self, reference: Reference, *, deadline_s: float) -> WorkerReply:
        return WorkerReply(WorkerStatus.OK, {"samples_s": [self._script.time_s(2e-4)] * 3})

    def state(self, *, deadline_s: float) -> WorkerReply:
        return WorkerReply(WorkerStatus.OK, {"state": {}})


class ScriptedFarm(Farm):
    """A farm of one scripted device; only starting and leasing are its own."""

    def __init__(self, script: Script, on_warning: Callable[[str], None]) -> None:
        self.profile = PROFILE
        self._script = script
        self._watch = ReferenceWatch(REFERENCE, PROFILE, on_warning=on_warning)
        self.leases = 0

    @contextlib.contextmanager
    def lease(self, *, deadline_s: float = 30.0, hold_s: float = 30.0) -> Iterator[Lease]:
        lease: Any = ScriptedLease(self._script)
        self.leases += 1
        assert self._watch is not None
        assert self._watch.admits(lease)
        yield lease


@dataclass(frozen=True)
class ScriptedToolchain(Toolchain):
    """Compiles a candidate into a file with its steady time; those in `broken` compile or run no second time."""

    notations: dict[int, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def lower(
        self, network: nn.Module, shape: Sequence[int], *, input_dtype: str = "float32"
    ) -> LoweredNetwork:
        return LoweredNetwork(SHAPE, PROFILE.target, (), network)

    def missing(self, lowered: LoweredNetwork) -> list[Any]:
        return []

    def kernels_us(self, lowered: LoweredNetwork) -> float | None:
        return None

    def compile(self, lowered: LoweredNetwork, path: Path) -> CompiledArtifact:
        (notation,) = (n for n in self.notations.values() if parse_candidate(n).id == path.stem)
        path.write_text("broken" if notation in self.broken else repr(true_ms(notation)))
        return CompiledArtifact(path, 3, 3, 24, 1.0, 1000, SHAPE, "float32")

    def check_network(self, artifact: Any, judge: Any, *, seed: int) -> Any:
        return None


class Guessing(InlineExecutor):
    """Trains nobody."""

    def submit(self, function: Any, task: Any, on_end: Any) -> Any:
        assert isinstance(task, TrainTask)
        accuracy = Accuracy(
            top1=top1(task.notation),
            samples=1000,
            steps=1,
            train_loss=1.0,
            duration_s=0.1,
            seed=0,
            split="validation",
        )
        return super().submit(lambda task, report: accuracy, task, on_end)


@dataclass
class Notes:
    """Remembers what a person is told."""

    lines: list[str] = field(default_factory=list)

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Search:
    """A search of which the trials are done."""

    run: RunDirectory
    study: Any
    pipeline: CandidatePipeline
    toolchain: ScriptedToolchain
    farm: ScriptedFarm
    notes: Notes

    def finalists(self) -> list[TrialRecord]:
        records = settle_latencies(self.run, self.study, self.pipeline)
        finalists = pick_finalists(records, FINALISTS)
        timed = time_finalists(self.run, self.study, self.pipeline, finalists)
        return sorted(timed, key=lambda record: (-(record.reward or 0.0), record.number))


def searched(directory: Path, speed_after: Callable[[int], float]) -> Search:
    config = SearchConfig(
        space=reference_of(SPACE, what="a space"),
        algorithm="random",
        target_latency_ms=2.0,
        alpha=-0.3,
        beta=-0.3,
        trials=TRIALS,
        batch=10,
        seed=3,
        finalists=FINALISTS,
    )
    run = RunDirectory.create(directory, config)
    sampler = make_sampler(
        "random",
        AlgorithmRequest(
            decisions=SPACE.decisions,
            reward=run.reward,
            seed=config.seed,
            batch_size=config.batch,
            population=8,
            checkpoint=run.controller,
        ),
    )
    study = run.study(sampler)
    notes = Notes()
    farm = ScriptedFarm(Script(speed_after), notes.note)
    nothing: Any = None
    toolchain = ScriptedToolchain(PROFILE, farm, nothing, nothing, nothing, directory)
    pipeline = CandidatePipeline(
        config, run.recipe, ("cpu",), toolchain, Guessing(), directory, notes
    )

    class Remembering:
        def evaluate(self, architectures: Sequence[Candidate]) -> Any:
            toolchain.notations.update(
                {len(toolchain.notations) + at: a.notation for at, a in enumerate(architectures)}
            )
            return pipeline.evaluate(architectures)

    run_trials(run, SPACE, study, Remembering())
    return Search(run, study, pipeline, toolchain, farm, notes)


def steady(timed: int) -> float:
    return 1.0


def changing(timed: int) -> float:
    """Three changes, each of which lasts: a neighbour leaves, comes back as two, and one of them leaves."""
    return 1.0 if timed < 15 else 0.7 if timed < 38 else 1.6 if timed < 58 else 1.2


def front_of(search: Search) -> list[str]:
    """The Pareto front, the fastest first."""
    first = {
        record.evaluation.architecture.notation: record
        for record in reversed(search.run.trials(search.study))
    }
    points = [Point(*(record.evaluation.objectives or ())) for record in first.values()]
    return [list(first)[index] for index in pareto_front(points)]


def order(records: Sequence[TrialRecord]) -> list[str]:
    return [record.evaluation.architecture.notation for record in records]


def test_the_final_ranking_on_a_changing_device_is_that_of_a_steady_one(tmp_path: Path) -> None:
    calm = searched(tmp_path / "steady", steady)
    moved = searched(tmp_path / "changing", changing)
    # The trials themselves rank wrongly, or there would be nothing to mend.
    naive = pick_finalists(moved.run.trials(moved.study), FINALISTS)
    told = [trial.values for trial in moved.study.get_trials()]
    expected = calm.finalists()
    assert order(naive) != order(expected)
    found = moved.finalists()
    assert order(found) == order(expected)
    truth = sorted(
        {record.evaluation.architecture.notation for record in calm.run.trials(calm.study)},
        key=lambda notation: -calm.run.reward(top1(notation), true_ms(notation)),
    )
    assert order(found) == truth[:FINALISTS]
    assert front_of(moved) == front_of(calm)
    # Nothing was changed on the steady device but by timing the finalists in turn.
    again = [r for r in calm.run.trials(calm.study) if r.first_latency is not None]
    assert {*order(again)} == {*order(expected)}
    assert calm.notes.lines == []
    # The controller's trials stay as they were told.
    assert [trial.values for trial in moved.study.get_trials()] == told


def test_each_change_is_said_once_and_flags_are_rare(tmp_path: Path) -> None:
    search = searched(tmp_path / "run", changing)
    changed = [line for line in search.notes.lines if "its level from now on" in line]
    assert len(changed) == 3
    flagged = [
        record.number
        for record in search.run.trials(search.study)
        if record.evaluation.latency is not None and record.evaluation.latency.warnings
    ]
    assert 1 <= len(flagged) <= 2 * len(changed)
    search.finalists()
    (line,) = search.notes.lines[-1:]
    assert line.endswith(
        "of the best candidates were measured while the device had another speed: again"
    )


def test_every_contender_ends_at_one_level_and_repeats_follow_their_first(tmp_path: Path) -> None:
    search = searched(tmp_path / "run", changing)
    search.finalists()
    records = search.run.trials(search.study)
    newest = {r.number: r for r in records if r.first_latency is not None and r.repeats is None}
    assert newest
    for record in newest.values():
        latency, first = record.evaluation.latency, record.first_latency
        assert latency is not None and first is not None and latency != first
        steady_ms = true_ms(record.evaluation.architecture.notation)
        assert latency.latency_ms == pytest.approx(1.2 * steady_ms, rel=0.01)
        assert record.reward == search.run.reward(top1_of(record), latency.latency_ms)
    for record in records:
        if record.repeats in newest:
            assert record.evaluation.latency == newest[record.repeats].evaluation.latency
    # What was kept is read again by another process.
    assert RunDirectory.open(search.run.path).finished_trials() == records


def top1_of(record: TrialRecord) -> float:
    assert record.evaluation.accuracy is not None
    return record.evaluation.accuracy.top1


def test_a_device_without_a_level_ends_the_search_all_the_same(tmp_path: Path) -> None:
    """Each time is another speed: it is said, and nobody is measured for ever."""
    rng = random.Random(1)
    speeds = [float(np.exp(rng.uniform(-1.0, 1.0))) for _ in range(20_000)]
    search = searched(tmp_path / "run", lambda timed: speeds[timed])
    before = search.farm.leases
    assert search.finalists()
    assert search.farm.leases - before <= MOST_AGAIN * TRIALS + 1
    assert any("the device's speed keeps changing" in line for line in search.notes.lines)
    assert not any("from now on" in line for line in search.notes.lines)


def test_one_that_cannot_be_measured_again_keeps_its_latency_and_is_no_finalist(
    tmp_path: Path,
) -> None:
    search = searched(tmp_path / "run", changing)
    steady_order = order(searched(tmp_path / "steady", steady).finalists())
    search.toolchain.broken.add(steady_order[0])
    found = search.finalists()
    assert steady_order[0] not in order(found)
    assert any("it has no main" in line for line in search.notes.lines)
    kept = [
        record
        for record in search.run.trials(search.study)
        if record.evaluation.architecture.notation == steady_order[0]
    ]
    assert kept and all(record.first_latency is None for record in kept)


def test_finalists_take_turns_in_one_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searched(tmp_path / "run", steady)
    finalists = pick_finalists(search.run.trials(search.study), 3)
    loaded: list[str] = []
    load = ScriptedLease.load_network

    def watched(lease: ScriptedLease, path: Path, *rest: object, **named: object) -> WorkerReply:
        loaded.append(path.stem)
        return load(lease, path, *rest, **named)

    monkeypatch.setattr(ScriptedLease, "load_network", watched)
    before = search.farm.leases
    timed = time_finalists(search.run, search.study, search.pipeline, finalists)
    ids = [record.evaluation.architecture.id for record in finalists]
    assert loaded == ids * FINAL_ROUNDS
    assert search.farm.leases == before + 1
    assert [record.number for record in timed] == [record.number for record in finalists]
    assert not list(search.pipeline.artifacts.glob("*.so"))
    # One has nobody to be compared with.
    assert time_finalists(search.run, search.study, search.pipeline, finalists[:1]) == finalists[:1]
    assert loaded == ids * FINAL_ROUNDS


def test_a_finalist_that_does_not_compile_is_noted_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searched(tmp_path / "run", steady)
    finalists = pick_finalists(search.run.trials(search.study), 3)
    compile_ = CandidatePipeline.compile

    def refuse(pipeline: CandidatePipeline, architecture: Candidate) -> CompiledArtifact:
        if architecture == finalists[1].evaluation.architecture:
            raise MeasurementError("the linker found nothing")
        return compile_(pipeline, architecture)

    monkeypatch.setattr(CandidatePipeline, "compile", refuse)
    timed = time_finalists(search.run, search.study, search.pipeline, finalists)
    assert issubclass(MeasurementError, CandidateError)
    assert [r.number for r in timed] == [finalists[0].number, finalists[2].number]
    assert search.notes.lines == [
        f"finalist of trial {finalists[1].number} failed: the linker found nothing"
    ]
