"""`tvm-mnas records`, command by command, in tables and in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compiler.stores import TARGET, add, contents, make_kernel, make_record
from tvm_mnas import cli
from tvm_mnas.compiler.records.formats import FAILED_S, RECORDS
from tvm_mnas.compiler.records.layered import store_name
from tvm_mnas.compiler.records.store import RecordStore

ROOT = Path(__file__).parents[2]
ONE, TWO = make_kernel(1), make_kernel(2)
BOARD = store_name("board", TARGET)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return `tuning_logs` in the working directory, with a store of a board and one that ships of the same."""
    monkeypatch.chdir(tmp_path)
    store = RecordStore.open(Path("tuning_logs") / BOARD, target=TARGET)
    store.add(
        ONE,
        [make_record(2e-6), make_record(4e-6), make_record(FAILED_S)],
        budget=4,
        failures={"timeout": 1, "crashed": 2},
        duration_s=1.0,
    )
    shipped = RecordStore.open(Path("tuning_logs") / "shipped" / BOARD, target=TARGET)
    add(shipped, TWO, [make_record(FAILED_S)])
    return Path("tuning_logs")


class Console:
    """Runs the command line in this process; keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._patch = patch
        self.errors = ""

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Return the output of a command that ends with `code`."""
        self._patch.setattr(sys, "argv", ["tvm-mnas", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self._capsys.readouterr()
        self.errors = printed.err
        assert ended.value.code == code, printed.err
        return printed.out

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    return Console(capsys, monkeypatch)


def _spoil(directory: Path) -> None:
    path = directory / RECORDS
    path.write_bytes(b"garbage\n" + path.read_bytes()[:-3])


def test_stores_are_listed(logs: Path, console: Console) -> None:
    before = contents(logs)
    rows = console.json("records", "list", logs)
    assert [(row["store"], row["profile"]) for row in rows] == [
        (f"tuning_logs/{BOARD}", "board"),
        (f"tuning_logs/shipped/{BOARD}", "board"),
    ]
    board = rows[0]
    assert (board["kernels"], board["valid"], board["schedules"]) == (1, 1, 3)
    assert board["failures"] == {"timeout": 1, "crashed": 2}
    assert board["target"] == TARGET
    assert rows[1]["valid"] == 0
    table = console("records", "list", logs)
    for part in (BOARD, "llvm, 1 core", board["tvm"], "2 crashed"):
        assert part in table
    assert contents(logs) == before


def test_without_a_directory_mine_and_those_that_ship_are_listed(
    logs: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tvm_mnas.compiler.records.layered.shipped_directory", lambda: logs.resolve() / "shipped"
    )
    rows = console.json("records", "list")
    assert [row["store"] for row in rows] == [
        f"tuning_logs/{BOARD}",
        str(logs.resolve() / "shipped" / BOARD),
    ]


def test_no_store_is_an_empty_list(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tvm_mnas.compiler.records.layered.shipped_directory", lambda: None)
    assert console.json("records", "list") == []
    assert "`tvm-mnas search`" in console.errors


def test_a_damaged_store_is_listed_with_its_problem(logs: Path, console: Console) -> None:
    _spoil(logs / BOARD)
    rows = console.json("records", "list", logs)
    assert "line 1" in rows[0]["problem"]
    assert rows[1]["kernels"] == 1
    assert BOARD in console("records", "list", logs)
    assert "records check --repair" in console.errors


def test_the_kernels_of_a_store_are_listed(logs: Path, console: Console) -> None:
    (row,) = console.json("records", "list", logs / BOARD)
    assert row == {
        "kernel": "kernel1",
        "key": ONE.key,
        "best_us": pytest.approx(2.0),
        "gflops": pytest.approx(10 / 2e-6 / 1e9),
        "schedules": 3,
        "valid": 2,
        "budget": 4,
        "failures": {"timeout": 1, "crashed": 2},
    }
    table = console("records", "list", logs / BOARD)
    for part in ("kernel1", ONE.key, "2 crashed, 1 timeout"):
        assert part in table
    (other,) = console.json("records", "list", logs / "shipped" / BOARD)
    assert other["best_us"] is other["gflops"] is None


def test_a_check_of_good_stores_says_so(logs: Path, console: Console) -> None:
    assert "nothing is wrong" in console("records", "check", logs / BOARD)
    printed = console.json("records", "check", logs)
    assert len(printed["stores"]) == 2
    (finding,) = printed["findings"]
    assert (finding["kind"], finding["damage"]) == ("no valid record", False)


def test_a_check_names_file_and_line_and_fails(logs: Path, console: Console) -> None:
    _spoil(logs / BOARD)
    before = contents(logs)
    output = console("records", "check", logs / BOARD, code=1)
    path = logs / BOARD / RECORDS
    assert f"{path}:1" in output and f"{path}:4" in output
    assert console.errors.startswith("tvm-mnas: error: ")
    assert console.errors.count("\n") == 1
    assert f"`tvm-mnas records check --repair {logs / BOARD}`" in console.errors
    findings = console.json("records", "check", logs / BOARD, code=1)["findings"]
    assert [(item["kind"], item["path"], item["line"]) for item in findings] == [
        ("damaged", str(path), 1),
        ("torn", str(path), 4),
    ]
    assert contents(logs) == before


def test_a_repair_tells_what_it_dropped_and_where_the_copy_is(logs: Path, console: Console) -> None:
    _spoil(logs / BOARD)
    spoiled = (logs / BOARD / RECORDS).read_bytes()
    printed = console.json("records", "check", "--repair", logs / BOARD)
    assert [item["line"] for item in printed["dropped"]] == [1, 4]
    assert printed["findings"] == []
    (backup,) = map(Path, printed["backups"])
    assert backup.read_bytes() == spoiled
    assert "nothing is wrong" in console("records", "check", logs / BOARD)


def test_what_no_repair_helps_stays_a_failure(logs: Path, console: Console) -> None:
    (logs / BOARD / "manifest.json").write_text("{")
    console("records", "check", "--repair", logs / BOARD, code=1)
    assert "no repair" in console.errors


def test_stores_are_merged(logs: Path, console: Console) -> None:
    (row,) = console.json("records", "merge", logs / BOARD, logs / "shipped" / BOARD)
    assert row == {"from": str(logs / BOARD), "kernels": 1, "schedules": 3}
    merged = RecordStore.read(logs / "shipped" / BOARD)
    assert merged.best_us(ONE.key) == pytest.approx(2.0)
    assert "MergeResult into new" in console("records", "merge", logs / BOARD, "new")
    assert contents(logs / BOARD) == contents(Path("new"))


def test_stores_are_pruned_and_what_ships_only_by_name(logs: Path, console: Console) -> None:
    shipped = contents(logs / "shipped")
    (row,) = console.json("records", "prune", logs, "--keep", "1")
    assert (row["kept"], row["dropped"]) == (1, 2)
    assert row["freed_bytes"] > 0
    assert RecordStore.read(logs / BOARD).best_us(ONE.key) == pytest.approx(2.0)
    assert contents(logs / "shipped") == shipped
    assert "1" in console("records", "prune", logs / "shipped" / BOARD, "--keep", "1")
    assert RecordStore.read(logs / "shipped" / BOARD).records_of(TWO.key) == []


@pytest.mark.parametrize(
    "command",
    [
        f"list tuning_logs/{BOARD}",
        f"check tuning_logs/{BOARD}",
        f"merge tuning_logs/{BOARD} tuning_logs/shipped/{BOARD}",
        f"prune tuning_logs/{BOARD} --keep 1",
    ],
)
def test_records_are_looked_after_without_tvm(command: str, logs: Path) -> None:
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tvm_mnas", "records", *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in traced.splitlines()}
    assert "tvm_mnas" in imported
    assert not imported & {"tvm", "tvm_ffi", "torch", "numpy"}
