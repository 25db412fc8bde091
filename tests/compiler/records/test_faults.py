"""Stores of records among full disks, crashes, missing rights and other processes."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compiler.stores import TARGET, add, contents, make_kernel, make_record, reopened
from tvm_mnas.compiler.records.check import check_store
from tvm_mnas.compiler.records.formats import HISTORY, RECORDS, WORKLOADS
from tvm_mnas.compiler.records.json_lines import LineReader, append_lines, read_lines, replace_lines
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError

ROOT = Path(__file__).parents[3]
ONE, TWO = make_kernel(1), make_kernel(2)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """Return a store of one kernel with two schedules."""
    store = RecordStore.open(tmp_path / "records", target=TARGET)
    add(store, ONE, [make_record(3e-6), make_record(2e-6)])
    return store


_WRITER = """
import sys
from pathlib import Path
from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.records.store import RecordStore
store, writer = RecordStore.open(Path(sys.argv[1]), target=TARGET), int(sys.argv[2])
print("open", flush=True)
sys.stdin.readline()
for number in range(100):
    records = [make_record(1e-6, trace=f"{writer}-{number}-{item}" * 500) for item in range(3)]
    add(store, make_kernel(number % 7 + 1), records, budget=number)
"""


def test_two_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "records"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory), str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
    for writer in writers:  # both are ready: they start together
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert check_store(directory) == ()
    store = RecordStore.open(directory, target=TARGET)
    found = {
        json.loads(record)[0][0][0]
        for number in range(1, 8)
        for record in store.records_of(make_kernel(number).key)
    }
    wanted = {
        f"{writer}-{number}-{item}" * 500
        for writer in range(2)
        for number in range(100)
        for item in range(3)
    }
    assert found == wanted
    assert len((directory / WORKLOADS).read_bytes().splitlines()) == 7
    assert len((directory / HISTORY).read_bytes().splitlines()) == 200
    assert [store.budget(make_kernel(number).key) for number in (1, 2, 3)] == [98, 99, 93]


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS, HISTORY])
@pytest.mark.parametrize("half", [b"[", b'["2", "co', b'{"key": "', b"\0" * 50])
def test_a_torn_line_in_any_file_is_dropped_and_written_over(
    store: RecordStore, name: str, half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(store.directory)
    with (store.directory / name).open("ab") as file:
        file.write(half)
    again = reopened(store)
    assert "torn" in caplog.text
    assert contents(store.directory) == before
    add(again, TWO, [make_record(1e-6)])
    for known in (again, reopened(store)):
        assert known.best_us(ONE.key) == pytest.approx(2.0)
        assert known.best_us(TWO.key) == pytest.approx(1.0)
        assert known.budget(TWO.key) == 4


def test_a_line_torn_while_the_store_is_open_is_dropped_before_the_next(
    store: RecordStore,
) -> None:
    """Another process died while it wrote; this one goes on."""
    for name in (WORKLOADS, RECORDS, HISTORY):
        with (store.directory / name).open("ab") as file:
            file.write(b'["half a li')
    add(store, TWO, [make_record(1e-6)])
    assert check_store(store.directory) == ()
    assert reopened(store).best_us(TWO.key) == pytest.approx(1.0)


def test_reading_cuts_nothing_off(store: RecordStore) -> None:
    for name in (WORKLOADS, RECORDS, HISTORY):
        with (store.directory / name).open("ab") as file:
            file.write(b'["half a li')
    before = contents(store.directory)
    assert RecordStore.read(store.directory).best_us(ONE.key) == pytest.approx(2.0)
    assert contents(store.directory) == before


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS, HISTORY])
@pytest.mark.parametrize("taken_back", [True, False])
def test_a_disk_that_is_full_in_the_middle_of_a_line_loses_that_addition_alone(
    store: RecordStore, name: str, taken_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, truncate = os.write, os.ftruncate
    written = 0

    def first_half(descriptor: int, data: bytes) -> int:
        nonlocal written
        if os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) != name:
            return write(descriptor, data)
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: len(data) // 2])
        return written

    def cut(descriptor: int, size: int) -> None:
        if not taken_back:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        truncate(descriptor, size)

    before = (store.directory / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("tvm_mnas.compiler.records.json_lines.os.write", first_half)
        patch.setattr("tvm_mnas.compiler.records.json_lines.os.ftruncate", cut)
        with pytest.raises(RecordsError, match=r"No space left.*make room"):
            add(store, TWO, [make_record(1e-6)])
        assert written > 0
    after = (store.directory / name).read_bytes()
    assert (after == before) is taken_back
    assert after.startswith(before)
    # There is room again: the same process and a new one go on.
    add(store, TWO, [make_record(4e-6)])
    assert not any(finding.kind.is_damage for finding in check_store(store.directory))
    again = reopened(store)
    assert again.best_us(ONE.key) == pytest.approx(2.0)
    assert again.best_us(TWO.key) == pytest.approx(1.0 if name == HISTORY else 4.0)


@contextmanager
def _files_up_to(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond this size: a disk as full as can be had without rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_real_limit_in_the_middle_of_the_second_of_three_lines(store: RecordStore) -> None:
    before = contents(store.directory)
    record = make_record(1e-6, trace="x" * 5000)
    with _files_up_to(8000), pytest.raises(RecordsError, match="too large"):
        add(store, ONE, [record] * 3)
    assert contents(store.directory) == before
    add(store, ONE, [record] * 3)
    assert len(reopened(store).records_of(ONE.key)) == 5


@contextmanager
def _without_rights() -> Iterator[None]:
    """Work as nobody, should this be the user who may do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that everybody may enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_a_directory_that_may_not_be_made_is_one_clear_error(public: Path) -> None:
    public.chmod(0o555)
    with _without_rights(), pytest.raises(RecordsError, match=r"Permission denied.*--records"):
        RecordStore.open(public / "records", target=TARGET)


def test_a_store_that_may_only_be_read_is_read_and_nothing_else(public: Path) -> None:
    directory = public / "records"
    add(RecordStore.open(directory, target=TARGET), ONE, [make_record(3e-6)])
    (directory / ".lock").chmod(0o600 if os.geteuid() == 0 else 0)
    directory.chmod(0o555)
    before = contents(public)
    try:
        with _without_rights():
            assert RecordStore.read(directory).best_us(ONE.key) == pytest.approx(3.0)
            assert check_store(directory) == ()
            with pytest.raises(RecordsError, match=r"Permission denied.*--records"):
                RecordStore.open(directory, target=TARGET)
    finally:
        directory.chmod(0o755)
    assert contents(public) == before


def _text(line: bytes) -> str:
    return str(json.loads(line))


def test_a_reader_reads_each_line_once_and_any_again(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    reader = LineReader(path)
    assert list(reader.fresh(_text, cut=True)) == []
    assert not reader.replaced()
    append_lines(path, [b'"a"\n', b'"b"\n'])
    (first, place_a), (second, place_b) = reader.fresh(_text, cut=True)
    assert (first, second) == ("a", "b")
    assert list(reader.fresh(_text, cut=True)) == []
    append_lines(path, [b'"c"\n'])
    assert [value for value, _ in reader.fresh(_text, cut=True)] == ["c"]
    assert reader.read(place_b) == b'"b"\n' and reader.read(place_a) == b'"a"\n'
    assert list(read_lines(path)) == [(1, b'"a"\n'), (2, b'"b"\n'), (3, b'"c"\n')]


def test_a_reader_notices_every_replacement(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, [b'"a"\n'])
    reader = LineReader(path)
    ((_, place),) = reader.fresh(_text, cut=True)
    for round_ in range(20):
        replace_lines(path, [f'"{round_}"\n'.encode()])
        assert reader.replaced()
        if round_ % 3 == 0:
            assert reader.read(place).startswith(b'"')
            reader.restart()
            ((value, place),) = reader.fresh(_text, cut=True)
            assert value == str(round_)
            assert not reader.replaced()
    path.unlink()
    assert reader.replaced()


def test_a_reader_notices_that_a_file_was_cut_in_place(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, [b'"a"\n', b'"b"\n'])
    reader = LineReader(path)
    assert len(list(reader.fresh(_text, cut=True))) == 2
    os.truncate(path, 4)
    assert reader.replaced()


def test_a_reader_that_is_gone_holds_no_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, [b'"a"\n'])
    before = len(os.listdir("/proc/self/fd"))
    readers = [LineReader(path) for _ in range(10)]
    for reader in readers:
        assert len(list(reader.fresh(_text, cut=False))) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 10
    readers.clear()
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_replacement_keeps_the_rights_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, [b'"a"\n'])
    path.chmod(0o664)
    replace_lines(path, [b'"b"\n'])
    assert path.stat().st_mode & 0o777 == 0o664
