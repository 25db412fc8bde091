"""Only what the records lack is tuned, and nothing that was measured is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.compiler.conftest import SHAPE, TRIALS, FixedRunner, Tuned
from tests.compiler.targets import SKYLAKE_AVX512
from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.records.formats import HISTORY, RECORDS, HistoryEvent, parse_event
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning.build_workers import BuildResult, WarmBuilder
from tvm_mnas.compiler.tuning.forecast import count_planned, seconds_per_schedule
from tvm_mnas.compiler.tuning.tuner import (
    TuningBudget,
    TuningReport,
    tune_kernels,
)
from tvm_mnas.errors import DeviceError


@pytest.fixture
def store(tmp_path: Path, target: str) -> RecordStore:
    return RecordStore.open(tmp_path / "records", target=target)


@pytest.fixture(scope="module")
def dense(lowered: LoweredNetwork) -> Kernel:
    return next(kernel for kernel in lowered.kernels if "matmul" in kernel.name)


class Turned(nn.Module):
    """The image with its axes in another order: a kernel that has few schedules."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 2, 1)


@pytest.fixture(scope="module")
def transpose(target: str) -> Kernel:
    (kernel,) = lower_network(Turned(), SHAPE, target).kernels
    return kernel


def _tune(
    kernels: list[Kernel],
    store: RecordStore,
    builder: WarmBuilder,
    runner: Any,
    *,
    schedules: int,
    per_round: int = 16,
    progress: list[tuple[int, int]] | None = None,
    seed: int = 0,
    by_importance: bool = False,
) -> TuningReport:
    return tune_kernels(
        kernels,
        store,
        target=store.target,
        builder=builder,
        runner=runner,
        budget=TuningBudget(
            schedules_per_kernel=schedules,
            schedules_per_round=per_round,
            by_importance=by_importance,
        ),
        seed=seed,
        on_progress=lambda done, total: (progress if progress is not None else []).append(
            (done, total)
        ),
    )


def _drain(builder: WarmBuilder) -> None:
    """Let a builder that an interrupted tuning left at work come to rest."""
    while builder.idle == 0:
        builder.poll(0.1)


def test_every_kernel_of_a_network_gets_its_trials(tuned: Tuned, lowered: LoweredNetwork) -> None:
    report = {kernel.key: kernel for kernel in tuned.report.kernels}
    assert report.keys() == {kernel.key for kernel in lowered.kernels}
    for kernel in lowered.kernels:
        assert 1 <= report[kernel.key].schedules <= TRIALS
        assert report[kernel.key].failures == {}
        best_us = report[kernel.key].best_us
        assert best_us is not None
        assert 0.0 < best_us < 1e4
        assert best_us == tuned.store.best_us(kernel.key)
    assert tuned.runs == sum(kernel.schedules for kernel in tuned.report.kernels)
    assert tuned.report.duration_s > 0.0


def test_what_is_tuned_is_not_tuned_again(
    tuned: Tuned, lowered: LoweredNetwork, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune(list(lowered.kernels), tuned.store, builder, runner, schedules=TRIALS)
    assert report.kernels == ()
    assert runner.runs == 0


def test_a_larger_budget_measures_the_difference_and_learns_from_the_records(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: run * 1e-6)
    _tune([dense], store, builder, runner, schedules=2)
    assert runner.runs == 2
    report = _tune([dense], store, builder, runner, schedules=5)
    assert runner.runs == 5, report
    assert report.kernels[0].schedules == 3
    assert store.schedules(dense.key) == 5
    assert store.best_us(dense.key) == pytest.approx(1.0)
    # No schedule is measured twice: the traces of all records differ.
    assert len({json.dumps(json.loads(item)[0]) for item in store.records_of(dense.key)}) == 5


def test_a_round_sees_what_the_one_before_it_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([dense], store, builder, runner, schedules=6, per_round=2)
    assert report.kernels[0].schedules == runner.runs == 6
    assert len({json.dumps(json.loads(item)[0]) for item in store.records_of(dense.key)}) == 6


def test_progress_only_grows(dense: Kernel, store: RecordStore, builder: WarmBuilder) -> None:
    progress: list[tuple[int, int]] = []
    runner = FixedRunner(lambda run: 1e-6)
    _tune([dense], store, builder, runner, schedules=4, per_round=2, progress=progress)
    assert progress == sorted(progress)
    assert {total for _, total in progress} == {4}
    assert {0, 2} <= {done for done, _ in progress}


def test_progress_reaches_what_was_planned(
    transpose: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    progress: list[tuple[int, int]] = []
    runner = FixedRunner(lambda run: 1e-6)
    _tune([transpose], store, builder, runner, schedules=1, progress=progress)
    assert runner.runs == 1
    assert progress
    assert progress[-1] == (1, 1)


def test_a_kernel_with_few_schedules_does_not_burn_its_budget(
    transpose: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([transpose], store, builder, runner, schedules=64)
    assert 1 <= report.kernels[0].schedules < 16
    assert runner.runs == report.kernels[0].schedules
    assert store.missing([transpose], schedules_per_kernel=64) == []


def test_failures_are_counted_by_reason_and_the_others_stand(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    def answer(run: int) -> float | str:
        answers: dict[int, float | str] = {
            1: "crash: signal 11",
            2: 4e-6,
            3: "timeout: no answer in 10 s",
        }
        return answers.get(run, 8e-6)

    report = _tune([dense], store, builder, FixedRunner(answer), schedules=4)
    (kernel,) = report.kernels
    assert kernel.failures == {"crash": 1, "timeout": 1}
    assert kernel.schedules == 4
    assert kernel.best_us == pytest.approx(4.0)
    assert store.best_us(dense.key) == pytest.approx(4.0)


def test_a_kernel_of_which_nothing_runs_is_reported_and_has_no_record(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    report = _tune([dense], store, builder, FixedRunner(lambda run: "crash: signal 4"), schedules=2)
    (kernel,) = report.kernels
    assert kernel.best_us is None
    assert kernel.failures == {"crash": 2}
    assert not store.has(dense.key)
    assert store.best_us(dense.key) is None


def test_a_device_that_is_gone_ends_the_tuning(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: "no-device: none could be leased")
    try:
        with pytest.raises(DeviceError, match="no-device"):
            _tune([dense], store, builder, runner, schedules=16)
    finally:
        _drain(builder)
    # What no device measured says nothing of the kernel: it is still to be tuned.
    assert store.missing([dense], schedules_per_kernel=16) == [dense]
    assert store.schedules(dense.key) == 0


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_tuning_keeps_the_kernels_that_it_finished(
    interruption: type[BaseException],
    dense: Kernel,
    transpose: Kernel,
    store: RecordStore,
    builder: WarmBuilder,
) -> None:
    finished = []

    def answer(run: int) -> float | str:
        if store.has(transpose.key):
            finished.append(store.schedules(transpose.key))
            raise interruption
        return 1e-6

    try:
        with pytest.raises(interruption):
            _tune([transpose, dense], store, builder, FixedRunner(answer), schedules=2)
    finally:
        _drain(builder)
    reopened = RecordStore.open(store.directory, target=store.target)
    assert finished
    assert reopened.schedules(transpose.key) == finished[0]
    assert reopened.missing([transpose, dense], schedules_per_kernel=2) == [dense]
    # The builder is not spoilt by it, and the tuning goes on where it stopped.
    runner = FixedRunner(lambda run: 2e-6)
    report = _tune([transpose, dense], reopened, builder, runner, schedules=2)
    assert [kernel.key for kernel in report.kernels] == [dense.key]


def test_the_same_seed_gives_the_same_schedules(
    dense: Kernel, builder: WarmBuilder, target: str, tmp_path: Path
) -> None:
    records = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        store = RecordStore.open(tmp_path / name, target=target)
        runner = FixedRunner(lambda run: run * 1e-6)
        _tune([dense], store, builder, runner, schedules=4, per_round=2, seed=seed)
        records.append(store.records_of(dense.key))
    assert records[0] == records[1]
    assert records[0] != records[2]


@pytest.mark.parametrize(("schedules", "per_round"), [(0, 1), (1, 0), (-1, 1)])
def test_a_budget_of_nothing_cannot_be_made(schedules: int, per_round: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        TuningBudget(schedules_per_kernel=schedules, schedules_per_round=per_round)


def test_run_times_in_records_are_those_that_were_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    _tune([dense], store, builder, FixedRunner(lambda run: run * 1e-6), schedules=3)
    runs = [json.loads(item)[1] for item in store.records_of(dense.key)]
    assert all(math.isclose(run[0], n * 1e-6) for n, run in enumerate(runs, 1))


def test_failures_of_the_machine_do_not_spend_a_kernels_budget(
    transpose: Kernel, store: RecordStore, builder: WarmBuilder, target: str
) -> None:
    class NoDevice:
        def run(self, runner_inputs: list[Any]) -> list[Any]:
            result = load_meta_schedule().runner.RunnerResult(None, "no-device: all are gone")

            class Future:
                def done(self) -> bool:
                    return True

                def result(self) -> Any:
                    return result

            return [Future() for _ in runner_inputs]

    report = tune_kernels(
        [transpose],
        store,
        target=target,
        builder=builder,
        runner=NoDevice(),
        budget=TuningBudget(schedules_per_kernel=4),
        seed=0,
    )
    assert set(report.kernels[0].failures) == {"no-device"}
    assert report.kernels[0].best_us is None
    assert store.schedules(transpose.key) == 0
    assert store.missing([transpose], schedules_per_kernel=4) == [transpose]


def _events(store: RecordStore) -> list[HistoryEvent]:
    return [parse_event(line) for line in (store.directory / HISTORY).read_bytes().splitlines()]


def _traces(store: RecordStore, kernel: Kernel) -> list[str]:
    return [json.dumps(json.loads(item)[0]) for item in store.records_of(kernel.key)]


def _interrupted_in_run(
    number: int, kernel: Kernel, store: RecordStore, builder: WarmBuilder, *, schedules: int
) -> RecordStore:
    """Tune `kernel` in rounds of two until this run is asked for; return its records, opened anew."""

    def answer(run: int) -> float:
        if run == number:
            raise KeyboardInterrupt
        return run * 1e-6

    try:
        with pytest.raises(KeyboardInterrupt):
            _tune([kernel], store, builder, FixedRunner(answer), schedules=schedules, per_round=2)
    finally:
        _drain(builder)
    return RecordStore.open(store.directory, target=store.target)


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_kernel_keeps_its_rounds_and_goes_on_with_the_rest(
    torn: bool, dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    # Run 6 is in the third round: two are done.
    reopened = _interrupted_in_run(6, dense, store, builder, schedules=7)
    assert [event.budget for event in _events(store)] == [2, 4]
    if torn:
        # A `kill -9` between a round's records and its line in the history, and within a record.
        history = store.directory / HISTORY
        history.write_bytes(history.read_bytes().splitlines(keepends=True)[0])
        with (store.directory / RECORDS).open("ab") as records:
            records.write(b'[0, [[["half')
        reopened = RecordStore.open(store.directory, target=store.target)
    assert reopened.schedules(dense.key) == 4
    assert reopened.budget(dense.key) == (2 if torn else 4)
    assert reopened.missing([dense], schedules_per_kernel=7) == [dense]
    assert count_planned([dense], reopened, schedules=7) == 3
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([dense], reopened, builder, runner, schedules=7, per_round=2)
    assert runner.runs == report.kernels[0].schedules == 3
    assert len(set(_traces(reopened, dense))) == len(_traces(reopened, dense)) == 7
    assert reopened.budget(dense.key) == 7
    assert reopened.missing([dense], schedules_per_kernel=7) == []
    assert count_planned([dense], reopened, schedules=7) == 0


def test_an_interruption_does_not_change_what_is_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder, target: str, tmp_path: Path
) -> None:
    reopened = _interrupted_in_run(3, dense, store, builder, schedules=4)
    # What the second round measures goes on from the times of the first, as without an interruption.
    _tune(
        [dense],
        reopened,
        builder,
        FixedRunner(lambda run: (run + 2) * 1e-6),
        schedules=4,
        per_round=2,
    )
    whole = RecordStore.open(tmp_path / "whole", target=target)
    runner = FixedRunner(lambda run: run * 1e-6)
    _tune([dense], whole, builder, runner, schedules=4, per_round=2)
    assert reopened.records_of(dense.key) == whole.records_of(dense.key)


def test_rounds_add_up_to_one_tuning(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    def answer(run: int) -> float | str:
        return f"crash: signal {run}" if run in (2, 5) else 8e-6

    report = _tune([dense], store, builder, FixedRunner(answer), schedules=5, per_round=2)
    events = _events(store)
    assert [event.budget for event in events] == [2, 4, 5]
    assert [event.measured for event in events] == [2, 2, 1]
    assert [event.failures for event in events] == [{"crash": 1}, {}, {"crash": 1}]
    assert report.kernels[0].failures == {"crash": 2}
    assert store.schedules(dense.key) == 5
    assert 0 < sum(event.duration_s for event in events) <= report.duration_s + 0.01


def test_rounds_in_which_only_the_machine_failed_are_kept_once_a_schedule_ran(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    rounds: list[int] = []

    def answer(run: int) -> float | str:
        rounds.append(len(store.records_of(dense.key)))
        return "build-error: no linker" if run <= 2 else 8e-6

    _tune([dense], store, builder, FixedRunner(answer), schedules=6, per_round=2)
    # After the first round nothing could be said of the schedules, after the second of all four.
    assert rounds == [0, 0, 0, 0, 4, 4]
    assert store.schedules(dense.key) == 6
    assert store.missing([dense], schedules_per_kernel=6) == []


def test_a_device_that_is_lost_in_between_leaves_the_rest_for_later(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    def answer(run: int) -> float | str:
        return "no-device: none could be leased" if run in (3, 4) else 8e-6

    _tune([dense], store, builder, FixedRunner(answer), schedules=6, per_round=2)
    assert store.schedules(dense.key) == store.budget(dense.key) == 4
    runner = FixedRunner(lambda run: 8e-6)
    _tune([dense], store, builder, runner, schedules=6, per_round=2)
    assert runner.runs == 2
    assert len(set(_traces(store, dense))) == 6


def test_what_a_round_measured_before_the_device_was_gone_is_kept(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 8e-6 if run <= 2 else "no-device: none could be leased")
    try:
        with pytest.raises(DeviceError, match="no-device"):
            _tune([dense], store, builder, runner, schedules=16, per_round=10)
    finally:
        _drain(builder)
    assert store.schedules(dense.key) == store.budget(dense.key) == 2
    assert store.missing([dense], schedules_per_kernel=16) == [dense]


class NoMoreSchedules:
    """A builder that finds none."""

    idle = 1

    def submit(self, task: Any) -> int:
        return 1

    def poll(self, timeout_s: float) -> list[BuildResult]:
        return [BuildResult(1, (), None)]

    def pause(self) -> None:
        raise AssertionError("nothing is measured")

    def resume(self) -> None:
        pass


def test_a_kernel_that_has_no_more_schedules_after_an_interruption_is_done(
    dense: Kernel, tuned: Tuned, store: RecordStore
) -> None:
    records = tuned.store.records_of(dense.key)
    # As an interruption between the last round and the empty one after it leaves it.
    store.add(dense, records, budget=len(records), failures={}, duration_s=1.0)
    builder: Any = NoMoreSchedules()
    _tune([dense], store, builder, FixedRunner(lambda run: 1e-6), schedules=64)
    assert store.schedules(dense.key) == len(records)
    assert store.missing([dense], schedules_per_kernel=64) == []


def test_more_records_than_were_asked_for_end_a_kernel_unbuilt(
    dense: Kernel, tuned: Tuned, store: RecordStore, builder: WarmBuilder
) -> None:
    records = tuned.store.records_of(dense.key)
    # As two stores taken together, or a process that was killed before its history was written, leave it.
    store.add(dense, records, budget=0, failures={}, duration_s=0.0)
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([dense], store, builder, runner, schedules=len(records) - 1)
    assert runner.runs == report.kernels[0].schedules == 0
    assert store.missing([dense], schedules_per_kernel=len(records) - 1) == []


def test_seconds_per_schedule_are_the_median_of_the_kernels(tmp_path: Path) -> None:
    assert seconds_per_schedule(tmp_path) is None
    history = tmp_path / HISTORY
    history.write_bytes(b"")
    assert seconds_per_schedule(tmp_path) is None
    told = [
        # 2 s a schedule in two rounds, 1 s, 10 s; nothing of those without schedules or time.
        ("a", 2, 1.0),
        ("a", 2, 7.0),
        ("b", 3, 3.0),
        ("c", 1, 10.0),
        ("d", 0, 100.0),
        ("b", 90, 0.0),
    ]
    lines = [
        HistoryEvent(key, "name", 1, count, {}, time_s).to_line() for key, count, time_s in told
    ]
    history.write_bytes(b"".join(lines) + b'{"key": "torn')
    assert seconds_per_schedule(tmp_path) == pytest.approx(2.0)


class _ImprovingRunner(FixedRunner):
    """Kernels with `columns` columns take a tenth less time with each schedule, all others always as long."""

    def __init__(self, columns: int) -> None:
        super().__init__(lambda run: 1e-3)
        self.columns = columns
        self.improved = 0

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        shape = [int(extent) for extent in runner_inputs[0].args_info[-1].shape]
        if shape[-1] != self.columns:
            return super().run(runner_inputs)
        first = self.improved
        self.improved += len(runner_inputs)
        runner = FixedRunner(lambda run: 1e-3 * 0.9 ** (first + run))
        return runner.run(runner_inputs)


def test_by_importance_a_kernel_that_improves_gets_the_schedules_of_one_that_does_not(
    dense: Kernel, target: str, store: RecordStore, builder: WarmBuilder
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2] * SHAPE[3], 24)).eval()
    flat = next(
        kernel
        for kernel in lower_network(network, SHAPE, target).kernels
        if "matmul" in kernel.name
    )
    progress: list[tuple[int, int]] = []
    report = _tune(
        [dense, flat],
        store,
        builder,
        _ImprovingRunner(columns=24),
        schedules=10,
        per_round=2,
        by_importance=True,
        progress=progress,
    )
    spent = {kernel.key: kernel.schedules for kernel in report.kernels}
    assert 2 <= spent[dense.key] < 10 < spent[flat.key]
    assert progress[-1] == (20, 20)
    # Both have had their budget: another tuning has nothing to do.
    assert store.missing([dense, flat], schedules_per_kernel=10) == []


def test_by_importance_a_kernel_that_never_runs_takes_nothing_from_the_others(
    dense: Kernel, transpose: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: "crashed: it always does")
    report = _tune([dense], store, builder, runner, schedules=4, per_round=2, by_importance=True)
    assert report.kernels[0].schedules == 4
    assert report.kernels[0].best_us is None


def test_nothing_is_built_on_a_borrowed_core_while_kernels_are_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def answer(run: int) -> float | str:
        told.append("measured")
        if run == 5:
            raise RuntimeError("interrupted")
        return 1e-6

    for name in ("pause", "resume"):
        monkeypatch.setattr(builder, name, lambda name=name: told.append(name))
    with pytest.raises(RuntimeError, match="interrupted"):
        _tune([dense], store, builder, FixedRunner(answer), schedules=6, per_round=2)
    paused = False
    for event in told:
        paused = event == "pause" or (paused and event != "resume")
        assert paused or event != "measured"
    assert told.count("measured") == 5
    assert told[-1] == "resume"
    _drain(builder)


def test_a_convolution_has_schedules_beyond_the_tiles(tmp_path: Path, builder: WarmBuilder) -> None:
    # Stated, since the number of tiles is the core's; nothing built here runs. With a stride there are twelve tiles.
    store = RecordStore.open(tmp_path / "records", target=SKYLAKE_AVX512)
    convolution = nn.Sequential(nn.Conv2d(16, 16, 1, stride=2, bias=False), nn.ReLU()).eval()
    (kernel,) = (
        kernel
        for kernel in lower_network(convolution, (1, 16, 9, 9), SKYLAKE_AVX512).kernels
        if "conv2d" in kernel.name
    )
    runner = FixedRunner(lambda run: 1e-6 * (1 + run % 7))
    report = _tune([kernel], store, builder, runner, schedules=24, per_round=6)
    assert report.kernels[0].failures == {}
    generic = ["EnterPostproc" in record for record in store.records_of(kernel.key)]
    # Tiles come first; then two rounds at least, of which the second evolves the first.
    assert not generic[0]
    assert sum(generic) > 6
    assert len({json.dumps(json.loads(item)[0]) for item in store.records_of(kernel.key)}) == 24
