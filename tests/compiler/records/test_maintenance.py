"""Stores of records summed up, merged and pruned, while others work with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiler.conftest import Tuned
from tests.compiler.stores import TARGET, add, contents, make_kernel, make_record, reopened
from tvm_mnas.compiler.build.artifact import compile_network
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule
from tvm_mnas.compiler.records.check import check_store
from tvm_mnas.compiler.records.formats import FAILED_S, StoreManifest
from tvm_mnas.compiler.records.maintenance import (
    find_stores,
    is_store,
    merge_stores,
    prune_store,
    summarize_store,
)
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError

ROOT = Path(__file__).parents[3]
ONE, TWO, THREE = make_kernel(1), make_kernel(2), make_kernel(3)
RECORDS = "database_tuning_record.json"


def _store(path: Path, target: str = TARGET) -> RecordStore:
    return RecordStore.open(path, target=target)


@pytest.fixture
def first(tmp_path: Path) -> RecordStore:
    """Return a store of kernel one (3, 5 us, two failed) and kernel two (7 us)."""
    store = _store(tmp_path / "first")
    failed = [make_record(FAILED_S, trace=f"failed{number}") for number in range(2)]
    records = [make_record(5e-6), make_record(3e-6), *failed]
    store.add(ONE, records, budget=4, failures={"timeout": 2}, duration_s=1.0)
    add(store, TWO, [make_record(7e-6)], budget=1)
    return store


@pytest.fixture
def second(tmp_path: Path) -> RecordStore:
    """Return a store of kernel two (7 and 2 us) and kernel three (9 us)."""
    store = _store(tmp_path / "second")
    add(store, TWO, [make_record(7e-6), make_record(2e-6)], budget=8)
    add(store, THREE, [make_record(9e-6)])
    return store


def test_a_store_is_summed_up(first: RecordStore) -> None:
    add(first, THREE, [make_record(FAILED_S)])
    before = contents(first.directory)
    summary = summarize_store(first.directory)
    assert (summary.kernels, summary.valid, summary.schedules) == (3, 2, 6)
    assert summary.failures == {"timeout": 2}
    assert summary.manifest == StoreManifest.of_this(TARGET)
    assert summary.size_bytes == sum(
        len(content) for name, content in before.items() if name != "manifest.json"
    )
    kernels = {kernel.key: kernel for kernel in RecordStore.read(first.directory).summaries()}
    one = kernels[ONE.key]
    assert (one.name, one.flops, one.schedules, one.valid, one.budget) == ("kernel1", 10, 4, 2, 4)
    assert one.best_us == pytest.approx(3.0)
    assert one.failures == {"timeout": 2}
    assert kernels[THREE.key].best_us is None
    assert contents(first.directory) == before


def test_stores_are_found_by_name_those_that_ship_last(tmp_path: Path) -> None:
    for name in ("b-1", "a-1", "shipped/c-1"):
        _store(tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("")
    mine = (tmp_path / "a-1", tmp_path / "b-1")
    assert find_stores(tmp_path, shipped=False) == mine
    assert find_stores(tmp_path, shipped=True) == (*mine, tmp_path / "shipped" / "c-1")
    assert find_stores(tmp_path / "a-1", shipped=True) == mine[:1]
    assert is_store(tmp_path / "a-1") and not is_store(tmp_path)


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_no_stores_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"`tvm-mnas ") as caught:
        find_stores(tmp_path / name, shipped=True)
    assert str(tmp_path / name) in str(caught.value)


def test_merging_adds_what_is_lacking(first: RecordStore, second: RecordStore) -> None:
    before = contents(first.directory)
    (merged,) = merge_stores([first.directory], second.directory)
    assert (merged.source, merged.kernels, merged.schedules) == (first.directory, 1, 4)
    into = reopened(second)
    assert len(into) == 3
    assert into.best_us(ONE.key) == pytest.approx(3.0)
    assert into.best_us(TWO.key) == pytest.approx(2.0)
    assert into.records_of(ONE.key) == first.records_of(ONE.key)
    assert into.budget(ONE.key) == 4 and into.budget(TWO.key) == 8
    assert into.schedules(ONE.key) == 4 and into.schedules(TWO.key) == 2
    assert {kernel.key: kernel.failures for kernel in into.summaries()}[ONE.key] == {"timeout": 2}
    assert check_store(second.directory) == ()
    assert contents(first.directory) == before


def test_merging_again_changes_nothing(first: RecordStore, second: RecordStore) -> None:
    merge_stores([first.directory, second.directory], second.directory.parent / "third")
    before = contents(second.directory.parent / "third")
    again = merge_stores([first.directory, second.directory], second.directory.parent / "third")
    assert [(merged.kernels, merged.schedules) for merged in again] == [(0, 0), (0, 0)]
    assert contents(second.directory.parent / "third") == before


def test_the_order_of_a_merge_changes_no_result(first: RecordStore, second: RecordStore) -> None:
    directory = first.directory.parent
    merge_stores([first.directory, second.directory], directory / "forth")
    merge_stores([second.directory, first.directory], directory / "back")
    forth, back = _store(directory / "forth"), _store(directory / "back")
    for key in (ONE.key, TWO.key, THREE.key):
        assert sorted(forth.records_of(key)) == sorted(back.records_of(key))
        assert forth.budget(key) == back.budget(key)
        assert forth.schedules(key) == back.schedules(key)


def test_a_larger_budget_is_merged_with_no_schedule_new(
    first: RecordStore, second: RecordStore
) -> None:
    add(first, TWO, [make_record(2e-6)], budget=2)
    (merged,) = merge_stores([second.directory], first.directory)
    assert (merged.kernels, merged.schedules) == (1, 1)
    into = reopened(first)
    assert into.budget(TWO.key) == 8
    assert into.schedules(TWO.key) == 2


def test_a_schedule_that_is_there_twice_is_merged_once(first: RecordStore, tmp_path: Path) -> None:
    add(first, TWO, [make_record(7e-6)])
    merge_stores([first.directory], tmp_path / "new")
    assert len(_store(tmp_path / "new").records_of(TWO.key)) == 1


def test_records_of_another_target_are_not_merged(first: RecordStore, tmp_path: Path) -> None:
    other = _store(tmp_path / "other", '{"kind": "llvm", "mcpu": "cortex-a72"}')
    add(other, ONE, [make_record(1e-6)])
    before = contents(tmp_path)
    with pytest.raises(RecordsError, match="target") as caught:
        merge_stores([other.directory], first.directory)
    assert "cortex-a72" in str(caught.value)
    # The first of the sources decides where there is no store yet, and nothing is written before all are looked at.
    with pytest.raises(RecordsError, match="target"):
        merge_stores([first.directory, other.directory], tmp_path / "new")
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_records_of_another_tvm_are_not_merged(first: RecordStore, second: RecordStore) -> None:
    StoreManifest(TARGET, "0.26.0").write(second.directory)
    with pytest.raises(RecordsError, match=r"0\.26\.0"):
        merge_stores([second.directory], first.directory)


def test_stores_of_another_tvm_can_be_merged_with_each_other(
    first: RecordStore, second: RecordStore
) -> None:
    for store in (first, second):
        StoreManifest(TARGET, "0.26.0").write(store.directory)
    merge_stores([second.directory], first.directory)
    assert len(RecordStore.read(first.directory)) == 3


def test_a_store_is_not_merged_into_itself(first: RecordStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(first.directory)
    with pytest.raises(RecordsError, match="both"):
        merge_stores([first.directory], tmp_path / "link")


def test_records_are_not_merged_into_a_directory_of_stores(
    first: RecordStore, tmp_path: Path
) -> None:
    (tmp_path / "logs" / "a-1").mkdir(parents=True)
    with pytest.raises(RecordsError, match="logs/first"):
        merge_stores([first.directory], tmp_path / "logs")


def test_pruning_keeps_the_best(first: RecordStore, second: RecordStore) -> None:
    pruned = prune_store(first.directory, keep=1)
    assert (pruned.kept, pruned.dropped) == (2, 3)
    assert pruned.before_bytes > pruned.after_bytes
    assert pruned.after_bytes == (first.directory / RECORDS).stat().st_size
    store = reopened(first)
    assert [json.loads(record)[1] for record in store.records_of(ONE.key)] == [[3e-6]]
    assert len(store) == 2
    # What was measured and spent is still known, so that nothing is tuned again.
    assert store.schedules(ONE.key) == 4
    assert store.missing([ONE], schedules_per_kernel=4) == []
    assert check_store(first.directory) == ()


def test_pruning_again_changes_nothing(first: RecordStore) -> None:
    prune_store(first.directory, keep=1)
    before = contents(first.directory)
    inode = (first.directory / RECORDS).stat().st_ino
    assert prune_store(first.directory, keep=1).dropped == 0
    assert contents(first.directory) == before
    assert (first.directory / RECORDS).stat().st_ino == inode


def test_pruning_keeps_the_order_and_drops_failed_ones_alone(first: RecordStore) -> None:
    pruned = prune_store(first.directory, keep=9)
    assert (pruned.kept, pruned.dropped) == (3, 2)
    runs = [json.loads(record)[1] for record in reopened(first).records_of(ONE.key)]
    assert runs == [[5e-6], [3e-6]]


def test_a_kernel_that_never_ran_keeps_its_budget(first: RecordStore) -> None:
    add(first, THREE, [make_record(FAILED_S)], budget=4)
    prune_store(first.directory, keep=1)
    store = reopened(first)
    assert store.records_of(THREE.key) == []
    assert store.missing([THREE], schedules_per_kernel=4) == []


def test_pruning_to_nothing_is_refused(first: RecordStore) -> None:
    with pytest.raises(ValueError, match="not 0"):
        prune_store(first.directory, keep=0)


def test_a_reader_at_work_reads_on_and_a_writer_notices(first: RecordStore) -> None:
    reader, writer = RecordStore.read(first.directory), reopened(first)
    before = reader.records_of(ONE.key)
    prune_store(first.directory, keep=1)
    # Twice, so that the freed file's number might be given again.
    add(first, ONE, [make_record(1e-6)])
    prune_store(first.directory, keep=1)
    assert reader.records_of(ONE.key) == before
    assert json.loads(reader.best_record(ONE.key) or "")[1] == [3e-6]
    add(writer, ONE, [make_record(8e-6)])
    for store in (writer, reopened(first)):
        runs = [json.loads(record)[1] for record in store.records_of(ONE.key)]
        assert runs == [[1e-6], [8e-6]]
        assert store.best_us(ONE.key) == pytest.approx(1.0)


def test_a_writer_survives_a_store_that_was_deleted(first: RecordStore) -> None:
    for path in first.directory.iterdir():
        path.unlink()
    add(first, TWO, [make_record(1e-6)])
    for store in (first, reopened(first)):
        assert not store.has(ONE.key)
        assert store.best_us(TWO.key) == pytest.approx(1.0)


def test_a_full_disk_leaves_the_store_as_it_was(
    first: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(first.directory)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tvm_mnas.compiler.records.json_lines.os.fsync", full)
    with pytest.raises(RecordsError, match=r"No space left.*prune"):
        prune_store(first.directory, keep=1)
    assert contents(first.directory) == before


_WRITER = """
import sys
from pathlib import Path
from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.records.store import RecordStore
store = RecordStore.open(Path(sys.argv[1]), target=TARGET)
for number in range(150):
    add(store, make_kernel(number % 5 + 1), [make_record((1000 - number) * 1e-6)])
    print(number, flush=True)
"""


def test_pruning_while_another_process_appends_loses_no_best(first: RecordStore) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(first.directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    dropped = 0
    while writer.poll() is None:
        dropped += prune_store(first.directory, keep=2).dropped
    writer.stdout.close()
    assert writer.returncode == 0
    assert dropped > 0
    prune_store(first.directory, keep=2)
    assert check_store(first.directory) == ()
    store = reopened(first)
    # Each of a kernel's schedules was faster than the one before it.
    for number in range(3, 6):
        runs = [json.loads(record)[1][0] for record in store.records_of(make_kernel(number).key)]
        last = 145 + number - 1
        assert runs == pytest.approx([(1005 - last) * 1e-6, (1000 - last) * 1e-6])
        assert store.schedules(make_kernel(number).key) == 30


def test_a_network_is_compiled_from_merged_and_pruned_records(
    tuned: Tuned, lowered: LoweredNetwork, tmp_path: Path
) -> None:
    merge_stores([tuned.store.directory], tmp_path / "merged")
    prune_store(tmp_path / "merged", keep=1)
    store = _store(tmp_path / "merged", tuned.store.target)
    for kernel in lowered.kernels:
        assert store.best_us(kernel.key) == tuned.store.best_us(kernel.key)
        assert store.schedules(kernel.key) == tuned.store.schedules(kernel.key)
    theirs = load_meta_schedule().database.JSONDatabase(
        work_dir=os.fspath(store.directory), module_equality=EQUALITY
    )
    assert len(theirs) == len(lowered.kernels)
    artifact = compile_network(lowered, store, tmp_path / "net.so")
    assert artifact.tuned_kernels == len(lowered.kernels)
