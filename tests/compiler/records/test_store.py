"""Records outlive crashes, are shared between processes, and never cross targets."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.compiler.conftest import Tuned
from tests.compiler.stores import TARGET, add, make_kernel, make_record, reopened
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule
from tvm_mnas.compiler.records.formats import FAILED_S, WORKLOADS
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError

RECORDS = "database_tuning_record.json"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore.open(tmp_path / "records", target=TARGET)


def test_a_new_store_knows_nothing(store: RecordStore) -> None:
    kernel = make_kernel()
    assert not store.has(kernel.key)
    assert store.schedules(kernel.key) == 0
    assert store.best_us(kernel.key) is None
    assert store.records_of(kernel.key) == []
    assert store.missing([kernel]) == [kernel]
    assert len(store) == 0


def test_what_was_added_is_there_at_once_and_after_opening_again(store: RecordStore) -> None:
    one, two = make_kernel(1), make_kernel(2)
    add(store, one, [make_record(3e-6, 5e-6), make_record(2e-6)])
    add(store, two, [make_record(7e-6)])
    add(store, one, [make_record(9e-6)])
    for known in (store, reopened(store)):
        assert known.schedules(one.key) == 3
        assert known.best_us(one.key) == pytest.approx(2.0)
        assert known.best_us(two.key) == pytest.approx(7.0)
        assert [json.loads(record)[1] for record in known.records_of(one.key)] == [
            [3e-6, 5e-6],
            [2e-6],
            [9e-6],
        ]
        assert len(known) == 2


def test_failed_schedules_count_as_trials_but_are_no_result(store: RecordStore) -> None:
    kernel = make_kernel()
    add(store, kernel, [make_record(FAILED_S), make_record(FAILED_S)])
    assert store.schedules(kernel.key) == 2
    assert not store.has(kernel.key)
    assert store.best_us(kernel.key) is None
    assert len(store) == 0


def test_a_kernel_is_missing_until_its_budget_was_spent(store: RecordStore) -> None:
    kernel = make_kernel()
    add(store, kernel, [make_record(1e-6)], budget=8)
    for known in (store, reopened(store)):
        # It has fewer schedules than its budget: that is all there are.
        assert known.missing([kernel], schedules_per_kernel=8) == []
        assert known.missing([kernel], schedules_per_kernel=9) == [kernel]


def test_a_smaller_budget_later_takes_nothing_from_a_larger_one(store: RecordStore) -> None:
    kernel = make_kernel()
    add(store, kernel, [make_record(1e-6)], budget=8)
    add(store, kernel, [], budget=2)
    assert reopened(store).budget(kernel.key) == 8


@pytest.mark.parametrize(
    "other", ['{"kind": "llvm", "num-cores": 2}', '{"kind": "llvm", "mcpu": "cortex-a72"}']
)
def test_records_of_another_target_are_refused(store: RecordStore, other: str) -> None:
    with pytest.raises(RecordsError, match="target") as caught:
        RecordStore.open(store.directory, target=other)
    assert "--records" in str(caught.value)


def test_records_of_another_tvm_are_refused(store: RecordStore) -> None:
    manifest = store.directory / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "tvm": "0.26.0"}))
    with pytest.raises(RecordsError, match=r"0\.26\.0"):
        reopened(store)


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_damaged_manifest_is_one_clear_error(store: RecordStore, content: str) -> None:
    (store.directory / "manifest.json").write_text(content)
    with pytest.raises(RecordsError) as caught:
        reopened(store)
    assert str(store.directory) in str(caught.value)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_dropped_with_a_warning(
    store: RecordStore, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = make_kernel()
    add(store, kernel, [make_record(3e-6), make_record(2e-6)])
    path = store.directory / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = reopened(store)
    assert "torn" in caplog.text
    assert len(again.records_of(kernel.key)) == 1
    # Two were measured; that one of them is lost changes nothing of it.
    assert again.schedules(kernel.key) == 2
    assert again.best_us(kernel.key) == pytest.approx(3.0)
    # The next record starts on a line of its own.
    add(again, kernel, [make_record(1e-6)])
    assert reopened(store).best_us(kernel.key) == pytest.approx(1.0)
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == [0, 0]


def test_damage_in_the_middle_is_an_error_that_names_the_line(store: RecordStore) -> None:
    kernel = make_kernel()
    add(store, kernel, [make_record(3e-6), make_record(2e-6), make_record(1e-6)])
    path = store.directory / RECORDS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
    with pytest.raises(RecordsError, match="line 2"):
        reopened(store)


def test_a_record_of_a_kernel_that_is_not_there_is_an_error(store: RecordStore) -> None:
    add(store, make_kernel(), [make_record(3e-6)])
    with (store.directory / RECORDS).open("a") as file:
        file.write(f"[7, {make_record(1e-6)}]\n")
    with pytest.raises(RecordsError, match="7"):
        reopened(store)


def test_a_directory_that_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="--records"):
        RecordStore.open(tmp_path / "file" / "records", target=TARGET)


def test_two_stores_of_one_directory_see_each_other(store: RecordStore) -> None:
    other = reopened(store)
    one, two = make_kernel(1), make_kernel(2)
    add(store, one, [make_record(3e-6)])
    add(other, two, [make_record(4e-6)])
    add(other, one, [make_record(2e-6)])
    assert other.best_us(one.key) == pytest.approx(2.0)
    assert len((store.directory / "database_workload.json").read_text().splitlines()) == 2
    assert reopened(store).best_us(two.key) == pytest.approx(4.0)


_WRITER = """
import json, sys
from pathlib import Path
from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.records.store import RecordStore
store = RecordStore.open(Path(sys.argv[1]), target=TARGET)
for number in range(int(sys.argv[2])):
    add(store, make_kernel(number % 7 + 1), [make_record((number + 1) * 1e-6)] * 3)
    print(number, flush=True)
"""


def _start_writer(store: RecordStore, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(store.directory), str(rounds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_parallel_writers_lose_nothing(store: RecordStore) -> None:
    rounds = 40
    writers = [_start_writer(store, rounds) for _ in range(3)]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    again = reopened(store)
    kernels = [make_kernel(number) for number in range(1, 8)]
    assert sum(again.schedules(kernel.key) for kernel in kernels) == len(writers) * rounds * 3
    assert len((store.directory / "database_workload.json").read_text().splitlines()) == 7


def test_a_writer_waits_for_the_one_before_it(store: RecordStore) -> None:
    kernel = make_kernel()
    writing = threading.Thread(target=add, args=(store, kernel, [make_record(3e-6)]))
    with (store.directory / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writing.start()
        writing.join(timeout=0.5)
        assert writing.is_alive()
        assert not (store.directory / RECORDS).exists()
    writing.join(timeout=30)
    assert not writing.is_alive()
    assert store.best_us(kernel.key) == pytest.approx(3.0)


def test_a_killed_writer_loses_nothing_that_it_had_reported(store: RecordStore) -> None:
    writer = _start_writer(store, 1_000_000)
    assert writer.stdout is not None
    reported = 0
    while reported < 25:
        reported = int(writer.stdout.readline()) + 1
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=30)
    reported += len(writer.stdout.read().split())
    again = reopened(store)
    kernels = [make_kernel(number) for number in range(1, 8)]
    assert sum(again.schedules(kernel.key) for kernel in kernels) >= 3 * reported
    add(again, kernels[0], [make_record(1e-9)])
    assert reopened(store).best_us(kernels[0].key) == pytest.approx(1e-3)


def test_a_subset_holds_the_best_record_of_each_kernel(
    tuned: Tuned, lowered: LoweredNetwork, target: str, tmp_path: Path
) -> None:
    some = lowered.kernels[:3]
    tuned.store.subset(some, tmp_path / "subset")
    subset = RecordStore.open(tmp_path / "subset", target=target)
    assert len(subset) == 3
    for kernel in some:
        assert subset.schedules(kernel.key) == 1
        assert subset.best_us(kernel.key) == tuned.store.best_us(kernel.key)
    assert not subset.has(lowered.kernels[3].key)


def test_metaschedule_reads_the_files_and_finds_the_same_best(
    tuned: Tuned, lowered: LoweredNetwork
) -> None:
    database = load_meta_schedule().database
    theirs = database.JSONDatabase(
        work_dir=os.fspath(tuned.store.directory), module_equality=EQUALITY
    )
    assert len(theirs) == sum(tuned.store.schedules(kernel.key) for kernel in lowered.kernels)
    for kernel in lowered.kernels:
        workload = database.Workload.from_json(json.loads(kernel.workload))
        assert theirs.has_workload(workload.mod)
        (best,) = theirs.get_top_k(theirs.commit_workload(workload.mod), 1)
        mean_us = 1e6 * sum(float(run) for run in best.run_secs) / len(best.run_secs)
        assert mean_us == pytest.approx(tuned.store.best_us(kernel.key))
    stored = (tuned.store.directory / WORKLOADS).stat().st_size
    assert stored < 0.6 * sum(len(kernel.workload) for kernel in lowered.kernels)


def test_a_writer_killed_after_the_kernels_line_leaves_a_kernel_without_records(
    store: RecordStore,
) -> None:
    kernel = make_kernel()
    workloads = store.directory / "database_workload.json"
    workloads.write_text(kernel.workload + "\n")
    again = reopened(store)
    assert not (store.directory / RECORDS).exists()
    assert again.records_of(kernel.key) == []
    assert again.missing([kernel]) == [kernel]
    add(again, kernel, [make_record(1e-6)])
    assert reopened(store).best_us(kernel.key) == pytest.approx(1.0)
    assert len(workloads.read_text().splitlines()) == 1
