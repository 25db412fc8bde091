"""Only what the records lack is tuned, and nothing that was measured is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.compiler.conftest import TRIALS, FixedRunner, Tuned
from tvm_mnas.compiler.lowering import Kernel, LoweredNetwork
from tvm_mnas.compiler.metaschedule import load_meta_schedule
from tvm_mnas.compiler.records import RecordStore
from tvm_mnas.compiler.tuning import TuningBudget, TuningReport, tune_kernels
from tvm_mnas.compiler.workers import WarmBuilder
from tvm_mnas.errors import DeviceError


@pytest.fixture
def store(tmp_path: Path, target: str) -> RecordStore:
    return RecordStore.open(tmp_path / "records", target=target)


@pytest.fixture(scope="module")
def dense(lowered: LoweredNetwork) -> Kernel:
    return next(kernel for kernel in lowered.kernels if "matmul" in kernel.name)


@pytest.fixture(scope="module")
def transpose(lowered: LoweredNetwork) -> Kernel:
    return next(kernel for kernel in lowered.kernels if "transpose" in kernel.name)


def _tune(
    kernels: list[Kernel],
    store: RecordStore,
    builder: WarmBuilder,
    runner: Any,
    *,
    trials: int,
    per_round: int = 16,
    progress: list[tuple[int, int]] | None = None,
    seed: int = 0,
) -> TuningReport:
    return tune_kernels(
        kernels,
        store,
        target=store.target,
        builder=builder,
        runner=runner,
        budget=TuningBudget(trials_per_kernel=trials, trials_per_round=per_round),
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
        assert 1 <= report[kernel.key].trials <= TRIALS
        assert report[kernel.key].failures == {}
        best_us = report[kernel.key].best_us
        assert best_us is not None
        assert 0.0 < best_us < 1e4
        assert best_us == tuned.store.best_us(kernel.key)
    assert tuned.runs == sum(kernel.trials for kernel in tuned.report.kernels)
    assert tuned.report.duration_s > 0.0


def test_what_is_tuned_is_not_tuned_again(
    tuned: Tuned, lowered: LoweredNetwork, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune(list(lowered.kernels), tuned.store, builder, runner, trials=TRIALS)
    assert report.kernels == ()
    assert runner.runs == 0


def test_a_larger_budget_measures_the_difference_and_learns_from_the_records(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: run * 1e-6)
    _tune([dense], store, builder, runner, trials=2)
    assert runner.runs == 2
    report = _tune([dense], store, builder, runner, trials=5)
    assert runner.runs == 5
    assert report.kernels[0].trials == 3
    assert store.trials(dense.key) == 5
    assert store.best_us(dense.key) == pytest.approx(1.0)
    # No schedule is measured twice: the traces of all records differ.
    assert len({json.dumps(json.loads(item)[0]) for item in store.records_of(dense.key)}) == 5


def test_a_round_sees_what_the_one_before_it_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([dense], store, builder, runner, trials=6, per_round=2)
    assert report.kernels[0].trials == runner.runs == 6
    assert len({json.dumps(json.loads(item)[0]) for item in store.records_of(dense.key)}) == 6


def test_progress_only_grows(dense: Kernel, store: RecordStore, builder: WarmBuilder) -> None:
    progress: list[tuple[int, int]] = []
    runner = FixedRunner(lambda run: 1e-6)
    _tune([dense], store, builder, runner, trials=4, per_round=2, progress=progress)
    assert progress == sorted(progress)
    assert {total for _, total in progress} == {4}
    assert {0, 2} <= {done for done, _ in progress}


def test_progress_reaches_what_was_planned(
    transpose: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    progress: list[tuple[int, int]] = []
    runner = FixedRunner(lambda run: 1e-6)
    _tune([transpose], store, builder, runner, trials=1, progress=progress)
    assert runner.runs == 1
    assert progress
    assert progress[-1] == (1, 1)


def test_a_kernel_with_few_schedules_does_not_burn_its_budget(
    transpose: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    runner = FixedRunner(lambda run: 1e-6)
    report = _tune([transpose], store, builder, runner, trials=64)
    assert 1 <= report.kernels[0].trials < 16
    assert runner.runs == report.kernels[0].trials
    assert store.missing([transpose], trials_per_kernel=64) == []


def test_failures_are_counted_by_reason_and_the_others_stand(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    def answer(run: int) -> float | str:
        return {1: "crash: signal 11", 2: 4e-6, 3: "timeout: no answer in 10 s"}.get(run, 8e-6)

    report = _tune([dense], store, builder, FixedRunner(answer), trials=4)
    (kernel,) = report.kernels
    assert kernel.failures == {"crash": 1, "timeout": 1}
    assert kernel.trials == 4
    assert kernel.best_us == pytest.approx(4.0)
    assert store.best_us(dense.key) == pytest.approx(4.0)


def test_a_kernel_of_which_nothing_runs_is_reported_and_has_no_record(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    report = _tune([dense], store, builder, FixedRunner(lambda run: "crash: signal 4"), trials=2)
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
            _tune([dense], store, builder, runner, trials=16)
    finally:
        _drain(builder)
    # What no device measured says nothing of the kernel: it is still to be tuned.
    assert store.missing([dense], trials_per_kernel=16) == [dense]
    assert store.trials(dense.key) == 0


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
            finished.append(store.trials(transpose.key))
            raise interruption
        return 1e-6

    try:
        with pytest.raises(interruption):
            _tune([transpose, dense], store, builder, FixedRunner(answer), trials=2)
    finally:
        _drain(builder)
    reopened = RecordStore.open(store.directory, target=store.target)
    assert finished
    assert reopened.trials(transpose.key) == finished[0]
    assert reopened.missing([transpose, dense], trials_per_kernel=2) == [dense]
    # The builder is not spoilt by it, and the tuning goes on where it stopped.
    runner = FixedRunner(lambda run: 2e-6)
    report = _tune([transpose, dense], reopened, builder, runner, trials=2)
    assert [kernel.key for kernel in report.kernels] == [dense.key]


def test_the_same_seed_gives_the_same_schedules(
    dense: Kernel, builder: WarmBuilder, target: str, tmp_path: Path
) -> None:
    records = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        store = RecordStore.open(tmp_path / name, target=target)
        runner = FixedRunner(lambda run: run * 1e-6)
        _tune([dense], store, builder, runner, trials=4, per_round=2, seed=seed)
        records.append(store.records_of(dense.key))
    assert records[0] == records[1]
    assert records[0] != records[2]


@pytest.mark.parametrize(("trials", "per_round"), [(0, 1), (1, 0), (-1, 1)])
def test_a_budget_of_nothing_cannot_be_made(trials: int, per_round: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        TuningBudget(trials_per_kernel=trials, trials_per_round=per_round)


def test_run_times_in_records_are_those_that_were_measured(
    dense: Kernel, store: RecordStore, builder: WarmBuilder
) -> None:
    _tune([dense], store, builder, FixedRunner(lambda run: run * 1e-6), trials=3)
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
        budget=TuningBudget(trials_per_kernel=4),
        seed=0,
    )
    assert set(report.kernels[0].failures) == {"no-device"}
    assert report.kernels[0].best_us is None
    assert store.trials(transpose.key) == 0
    assert store.missing([transpose], trials_per_kernel=4) == [transpose]
