"""`tvm-mnas tune` as its users run it: interrupted, killed, gone on with; then nothing is left to tune."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tvm_mnas.compiler.records.formats import HISTORY, RECORDS, parse_event
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning.budget import MOST

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "i8_c3_w1:stem8_s22:r1_k3_s22_e1_i8_o8:head8:n4"
TRIALS = 8
"""More than one round of a kernel, so that an interruption finds kernels that are half done."""
DEADLINE_S = 280

pytestmark = pytest.mark.timeout(600)


def _command(*arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tvm_mnas", "tune", NETWORK, "--records", "records"),
        *("--schedules-per-kernel", str(TRIALS), *arguments),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _stopped(directory: Path, *, events: int, how: signal.Signals) -> tuple[int, str]:
    """Tune until the history has so many lines, then send `how`; return the exit code and the messages."""
    process = subprocess.Popen(
        _command(), cwd=directory, env=_environment(), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + DEADLINE_S
    while len(_events(directory)) < events and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(how)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


def _events(directory: Path) -> list[bytes]:
    return [line for path in directory.glob(f"records/*/{HISTORY}") for line in path.open("rb")]


@pytest.mark.slow
def test_two_tuners_on_one_store_lose_nothing(tmp_path: Path) -> None:
    tuners = [
        subprocess.Popen(
            _command("--json", "--seed", str(seed)),
            cwd=tmp_path,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    measured = []
    for tuner in tuners:
        output, messages = tuner.communicate(timeout=DEADLINE_S)
        assert tuner.returncode == 0, messages[-2000:]
        measured.append(json.loads(output)["measured"])
    assert min(measured) > 0
    (directory,) = (tmp_path / "records").iterdir()
    lines = (directory / RECORDS).read_bytes().splitlines()
    assert len(lines) == sum(measured)
    assert sum(parse_event(line).measured for line in _events(tmp_path)) == sum(measured)
    store = RecordStore.read(directory)
    for key in store.keys():  # noqa: SIM118
        assert store.has(key)
        assert TRIALS <= store.budget(key) <= MOST * TRIALS
    again, _ = _tuned(tmp_path)
    assert again["measured"] == 0


def _tuned(directory: Path) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        _command("--json"),
        cwd=directory,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_tuning_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    code, messages = _stopped(tmp_path, events=1, how=signal.SIGINT)
    assert code == 130, messages
    assert "known after the first kernels" in messages
    assert "interrupted; what was finished is saved" in messages
    kept = _events(tmp_path)
    assert kept
    code, messages = _stopped(tmp_path, events=len(kept) + 1, how=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "as in the tunings before" in messages
    assert _events(tmp_path)[: len(kept)] == kept

    (directory,) = (tmp_path / "records").iterdir()
    before = RecordStore.read(directory)
    held = {key: before.records_of(key) for key in before.keys()}  # noqa: SIM118
    result, _ = _tuned(tmp_path)
    store = RecordStore.read(directory)
    for row in result["kernels"]:
        records = store.records_of(row["key"])
        assert records[: len(held.get(row["key"], []))] == held.get(row["key"], [])
        assert len(records) == row["schedules"] <= MOST * TRIALS
        assert row["measured"] == len(records) - len(held.get(row["key"], []))
        assert store.budget(row["key"]) == max(TRIALS, row["schedules"])
        assert row["best_us"] == store.best_us(row["key"])
    full = [row for row in result["kernels"] if row["schedules"] >= TRIALS]
    assert full, "a convolution has more schedules than its equal share"
    assert result["measured"] <= result["planned"]
    assert sum(row["share_percent"] for row in result["kernels"]) == pytest.approx(100)

    lines = (directory / RECORDS).read_bytes()
    again, messages = _tuned(tmp_path)
    assert (again["measured"], again["kernels_tuned"]) == (0, 0)
    assert messages == ""
    assert (directory / RECORDS).read_bytes() == lines
    most = max(row["schedules"] for row in result["kernels"])
    assert max(parse_event(line).budget for line in _events(tmp_path)) == max(TRIALS, most)
