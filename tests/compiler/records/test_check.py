"""Every kind of damage is found by file and line, and repaired without a record coming under another kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.compiler.conftest import Tuned
from tests.compiler.stores import TARGET, add, contents, make_kernel, make_record, reopened
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import EQUALITY, load_meta_schedule
from tvm_mnas.compiler.records.check import Finding, FindingKind, check_store, repair_store
from tvm_mnas.compiler.records.formats import (
    FAILED_S,
    HISTORY,
    MANIFEST,
    RECORDS,
    WORKLOADS,
    StoreManifest,
)
from tvm_mnas.compiler.records.layered import store_name
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError

KERNELS = [make_kernel(number) for number in range(1, 5)]
ONE, TWO, THREE, FOUR = KERNELS


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """Return a store of four kernels, each with schedules of 10, 20, ... us and two of its own number."""
    store = RecordStore.open(tmp_path / store_name("board", TARGET), target=TARGET)
    for number, kernel in enumerate(KERNELS, 1):
        add(store, kernel, [make_record(number * 1e-5), make_record(number * 1e-6)])
    return store


def _spoil(store: RecordStore, name: str, line: int, text: bytes) -> None:
    """Put `text` in the place of a line, counted from 1."""
    path = store.directory / name
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_bytes(b"".join(lines))


def _places(findings: tuple[Finding, ...]) -> list[tuple[FindingKind, str, int | None]]:
    return [(finding.kind, finding.path.name, finding.line) for finding in findings]


def test_nothing_is_wrong_with_a_good_store(store: RecordStore) -> None:
    before = contents(store.directory)
    assert check_store(store.directory) == ()
    repair = repair_store(store.directory)
    assert repair.findings == repair.backups == ()
    assert contents(store.directory) == before


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS, HISTORY])
@pytest.mark.parametrize("text", [b"garbage\n", b"\n", b"{}\n", b"\0\0\0\n", b"\xff\xfe\n"])
def test_a_damaged_line_is_found_by_file_and_number(
    store: RecordStore, name: str, text: bytes
) -> None:
    _spoil(store, name, 2, text)
    before = contents(store.directory)
    findings = check_store(store.directory)
    assert (FindingKind.DAMAGED, name, 2) in _places(findings)
    assert all(finding.path.parent == store.directory for finding in findings)
    if name != WORKLOADS:
        assert len(findings) == 1
    assert contents(store.directory) == before
    # Opening it says the same, and names the repair.
    with pytest.raises(RecordsError, match="line 2.*records check --repair"):
        reopened(store)


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS, HISTORY])
def test_a_torn_end_is_found_and_left_by_a_check(store: RecordStore, name: str) -> None:
    path = store.directory / name
    path.write_bytes(path.read_bytes()[:-5])
    before = contents(store.directory)
    findings = check_store(store.directory)
    last = {WORKLOADS: 4, RECORDS: 8, HISTORY: 4}[name]
    assert (FindingKind.TORN, name, last) in _places(findings)
    assert contents(store.directory) == before


def test_a_damaged_trace_that_opening_skips_is_found(store: RecordStore) -> None:
    text = (store.directory / RECORDS).read_bytes().splitlines(keepends=True)[2]
    _spoil(store, RECORDS, 3, text.replace(b'"trace"', b'"tra\0e"'))
    reopened(store)
    assert _places(check_store(store.directory)) == [(FindingKind.DAMAGED, RECORDS, 3)]


def test_a_record_of_no_kernel_is_found(store: RecordStore) -> None:
    _spoil(store, RECORDS, 1, f"[4, {make_record(1e-6)}]\n".encode())
    assert _places(check_store(store.directory)) == [(FindingKind.DAMAGED, RECORDS, 1)]


def test_records_of_a_damaged_kernel_are_found_with_it(store: RecordStore) -> None:
    _spoil(store, WORKLOADS, 2, b"garbage\n")
    assert _places(check_store(store.directory)) == [
        (FindingKind.DAMAGED, WORKLOADS, 2),
        (FindingKind.DAMAGED, RECORDS, 3),
        (FindingKind.DAMAGED, RECORDS, 4),
    ]


def test_duplicates_and_kernels_without_a_valid_record_are_no_damage(store: RecordStore) -> None:
    add(store, ONE, [make_record(1e-6)])
    add(store, make_kernel(9), [make_record(FAILED_S)])
    findings = check_store(store.directory)
    assert _places(findings) == [
        (FindingKind.DUPLICATE, RECORDS, 9),
        (FindingKind.UNTUNED, WORKLOADS, 5),
    ]
    assert not any(finding.kind.is_damage for finding in findings)
    assert "line 2" in findings[0].text
    assert "kernel9" in findings[1].text
    before = contents(store.directory)
    repair_store(store.directory)
    assert contents(store.directory) == before


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 1}', '{"target": "llvm"}'])
def test_a_manifest_that_is_none_is_damage(store: RecordStore, content: str | None) -> None:
    path = store.directory / MANIFEST
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert _places(check_store(store.directory)) == [(FindingKind.MANIFEST, MANIFEST, None)]
    # Nobody knows what the records are for: none of them is to be taken for another target's.
    with pytest.raises(RecordsError):
        reopened(store)


def test_a_target_that_is_none_costs_no_record(store: RecordStore) -> None:
    StoreManifest("llvm", StoreManifest.of_this(TARGET).tvm).write(store.directory)
    before = contents(store.directory)
    assert _places(repair_store(store.directory).findings) == [
        (FindingKind.MANIFEST, MANIFEST, None)
    ]
    assert contents(store.directory) == before


def test_another_format_is_damage_and_another_tvm_is_none(store: RecordStore) -> None:
    StoreManifest(TARGET, StoreManifest.of_this(TARGET).tvm, 2).write(store.directory)
    assert _places(check_store(store.directory)) == [(FindingKind.MANIFEST, MANIFEST, None)]
    StoreManifest(TARGET, "0.26.0").write(store.directory)
    (finding,) = check_store(store.directory)
    assert finding.kind is FindingKind.OTHER_TVM and not finding.kind.is_damage
    assert "0.26.0" in finding.text


def test_a_directory_named_for_another_target_is_found(store: RecordStore) -> None:
    StoreManifest('{"kind": "llvm", "num-cores": 2}', StoreManifest.of_this(TARGET).tvm).write(
        store.directory
    )
    assert _places(check_store(store.directory)) == [(FindingKind.MISMATCH, MANIFEST, None)]


def test_records_of_another_target_are_found_once(store: RecordStore) -> None:
    record = json.loads(make_record(1e-9))
    record[2] = {"kind": "llvm", "keys": ["cpu"], "num-cores": 4}
    add(store, ONE, [json.dumps(record), json.dumps([*record[:1], [2e-9], *record[2:]])])
    (finding,) = check_store(store.directory)
    assert (finding.kind, finding.path.name, finding.line) == (FindingKind.MISMATCH, RECORDS, 9)
    assert "num-cores 4" in finding.text


def test_a_repair_drops_damaged_records_and_keeps_a_copy(store: RecordStore) -> None:
    _spoil(store, RECORDS, 2, b"garbage\n")
    _spoil(store, RECORDS, 8, b"[3, [[[")
    _spoil(store, HISTORY, 1, b"{}\n")
    spoiled = contents(store.directory)
    repair = repair_store(store.directory)
    assert len(repair.findings) == 3
    assert {path.name for path in repair.backups} == {f"{RECORDS}.backup1", f"{HISTORY}.backup1"}
    for path in repair.backups:
        assert path.read_bytes() == spoiled[path.name.removesuffix(".backup1")]
    assert check_store(store.directory) == ()
    again = reopened(store)
    assert again.best_us(ONE.key) == pytest.approx(10.0)
    assert again.best_us(FOUR.key) == pytest.approx(40.0)
    assert again.best_us(TWO.key) == pytest.approx(2.0)
    # The history of kernel one is lost, so that it is tuned again; the others are not.
    assert again.missing(KERNELS, schedules_per_kernel=4) == [ONE]


def test_a_second_repair_keeps_the_copy_of_the_first(store: RecordStore) -> None:
    for _ in range(2):
        _spoil(store, RECORDS, 1, b"garbage\n")
        repair = repair_store(store.directory)
    assert [path.name for path in repair.backups] == [f"{RECORDS}.backup2"]
    assert (store.directory / f"{RECORDS}.backup1").exists()


@pytest.mark.parametrize("lines", [{1}, {2}, {4}, {1, 2}, {2, 3}, {3, 4}, {1, 4}, {1, 2, 3, 4}])
def test_repairing_kernels_brings_no_record_under_another(
    store: RecordStore, lines: set[int]
) -> None:
    for line in lines:
        _spoil(store, WORKLOADS, line, b"garbage\n")
    repair_store(store.directory)
    assert not any(finding.kind.is_damage for finding in check_store(store.directory))
    again = reopened(store)
    for number, kernel in enumerate(KERNELS, 1):
        if number in lines:
            assert not again.has(kernel.key)
        else:
            assert again.best_us(kernel.key) == pytest.approx(number)
            assert again.schedules(kernel.key) == 2
    # What was lost can be tuned again.
    for number, kernel in enumerate(KERNELS, 1):
        add(again, kernel, [make_record(number * 1e-7)])
    for number, kernel in enumerate(KERNELS, 1):
        assert reopened(store).best_us(kernel.key) == pytest.approx(number / 10)


def test_a_torn_kernel_is_dropped(store: RecordStore) -> None:
    with (store.directory / WORKLOADS).open("ab") as file:
        file.write(b'["5", "co')
    repair_store(store.directory)
    assert len((store.directory / WORKLOADS).read_bytes().splitlines()) == 4
    assert check_store(store.directory) == ()


class Interrupted(BaseException):
    """The power fails."""


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_interrupted_repair_can_be_done_again(
    store: RecordStore, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, line in ((WORKLOADS, 2), (RECORDS, 1), (HISTORY, 3)):
        _spoil(store, name, line, b"garbage\n")
    replace, done = os.replace, 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == calls:
            raise Interrupted
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("tvm_mnas.compiler.records.json_lines.os.replace", interrupted)
        with pytest.raises(Interrupted):
            repair_store(store.directory)
    repair_store(store.directory)
    assert not any(finding.kind.is_damage for finding in check_store(store.directory))
    again = reopened(store)
    assert again.best_us(ONE.key) == pytest.approx(1.0)
    assert not again.has(TWO.key)
    assert again.best_us(THREE.key) == pytest.approx(3.0)
    assert again.best_us(FOUR.key) == pytest.approx(4.0)


def test_a_store_at_work_notices_a_repair(store: RecordStore) -> None:
    text = (store.directory / RECORDS).read_bytes().splitlines(keepends=True)[7]
    _spoil(store, RECORDS, 8, text.replace(b'"trace"', b'"tra\0e"'))
    worker = reopened(store)
    assert worker.best_us(FOUR.key) == pytest.approx(4.0)
    repair_store(store.directory)
    add(worker, ONE, [])
    assert worker.best_us(FOUR.key) == pytest.approx(40.0)


def test_a_file_that_cannot_be_read_is_one_clear_error(store: RecordStore) -> None:
    (store.directory / RECORDS).unlink()
    (store.directory / RECORDS).mkdir()
    with pytest.raises(RecordsError, match="directory"):
        check_store(store.directory)


def test_metaschedule_reads_a_repaired_store(
    tuned: Tuned, lowered: LoweredNetwork, tmp_path: Path
) -> None:
    tuned.store.subset(lowered.kernels, tmp_path / "records")
    store = RecordStore.open(tmp_path / "records", target=tuned.store.target)
    assert check_store(store.directory) == ()
    _spoil(store, WORKLOADS, 2, b"garbage\n")
    repair_store(store.directory)
    theirs = load_meta_schedule().database.JSONDatabase(
        work_dir=os.fspath(store.directory), module_equality=EQUALITY
    )
    assert len(theirs) == len(lowered.kernels) - 1
    workload = load_meta_schedule().database.Workload.from_json(
        json.loads(lowered.kernels[0].workload)
    )
    (best,) = theirs.get_top_k(theirs.commit_workload(workload.mod), 1)
    mean_us = 1e6 * sum(float(run) for run in best.run_secs) / len(best.run_secs)
    assert mean_us == pytest.approx(tuned.store.best_us(lowered.kernels[0].key))
