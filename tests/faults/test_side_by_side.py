"""Two searches at once: on one run directory, with the same records, on the same devices of a tracker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_kills import ROOT, SETTINGS
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.devices.core.tracker import TrackerAddress, TrackerClient
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.errors import TrackerError
from tvm_mnas.search.run import RunDirectory

HOST = "127.0.0.1"
TRIALS = 8
WAIT_S = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def begin(directory: Path, run: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tvm_mnas", "search", *options, "--run", run],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    _, messages = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, messages[-2000:]
    return messages


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    """The profile of a device behind a tracker, which is this machine."""
    tracker = TrackerAddress(HOST, free_port(HOST))
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    start("tvm_mnas.devices.servers.local_main", "tracker", "--port", str(tracker.port))
    start(
        *("tvm_mnas.devices.servers.local_main", "server", "--port", str(tracker.port)),
        *("--key", "board"),
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(TrackerError), TrackerClient(tracker) as client:
                if client.devices("board"):
                    break
            time.sleep(0.2)
        profile = tmp_path / "board.toml"
        text = load_profile("local").to_toml().replace('key = "local"', 'key = "board"')
        profile.write_text(f'tracker = "{tracker}"\n{text}')
        yield profile
    finally:
        for process in started:
            process.kill()
            process.wait(10)


def test_two_searches_share_records_and_a_device(board: Path, tmp_path: Path) -> None:
    both = [
        begin(
            tmp_path,
            f"run-{seed}",
            *SETTINGS,
            *("--device", str(board), "--records", "records", "--trials", str(TRIALS)),
            *("--seed", str(seed)),
        )
        for seed in (1, 2)
    ]
    for process in both:
        ended(process)
    for seed in (1, 2):
        records = RunDirectory.open(tmp_path / f"run-{seed}").finished_trials()
        assert [record.number for record in records] == list(range(TRIALS))
        assert [record.evaluation.failure for record in records] == [None] * TRIALS
    # What both wrote is whole, and a third search finds all of it.
    check = subprocess.run(
        [
            sys.executable,
            "-m",
            "tvm_mnas",
            "records",
            "check",
            str(next((tmp_path / "records").iterdir())),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert check.returncode == 0, check.stderr
    third = begin(
        tmp_path,
        "run-3",
        *SETTINGS,
        *("--device", str(board), "--records", "records", "--trials", str(TRIALS)),
        *("--seed", "1"),
        *("--algorithm", "random"),
    )
    ended(third)


def test_a_second_search_on_one_run_is_sent_away_and_the_first_goes_on(tmp_path: Path) -> None:
    options = (*SETTINGS, "--trials", "4", "--seed", "1", "--records", "records")
    first = begin(tmp_path, "run", *options)
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "run.lock").exists() and time.monotonic() < end:
        time.sleep(0.1)
    second = subprocess.run(
        [sys.executable, "-m", "tvm_mnas", "search", "--resume", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("tvm-mnas: error: one process works on a run")
    ended(first)
    assert len(RunDirectory.open(tmp_path / "run").finished_trials()) == 4
