"""A search whose disk is full: one line, nothing blamed on a candidate, and it goes on once there is room.

Needs a small file system of its own, which only root can mount: elsewhere these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tvm_mnas.search.run import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 2
SETTINGS = (
    *("--space", str(ROOT / "tests" / "integration" / "few_kernels.toml"), "--seed", "1"),
    *("--trials", str(TRIALS), "--batch", "2", "--train-steps", "2", "--final-steps", "2"),
    *("--schedules-per-kernel", "2", "--target-latency", "0.02ms", "--finalists", "1"),
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that makes the disk so large, what is on it stays, and returns its place."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size: str) -> Path:
        options = f"size={size}" if not place.is_mount() else f"remount,size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
        return place

    yield resize
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)


def _search(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_mnas", "search", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize("size", ["40k", "100k", "200k", "500k", "2m", "8200k", "9m"])
def test_a_full_run_directory_is_told_in_a_line_and_the_search_goes_on(
    size: str, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    place = disk(size)
    done = _search(
        *SETTINGS, "--run", "run", "--records", str(tmp_path / "records"), directory=place
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("tvm-mnas: error:")
    assert "No space left on device" in last
    assert "Traceback" not in done.stderr
    assert "failed in" not in done.stderr, "a candidate was blamed"
    disk("100m")
    again = _search("--resume", "run", directory=place)
    assert again.returncode == 0, again.stderr[-1000:]
    records = RunDirectory.open(place / "run").finished_trials()
    assert [record.number for record in records] == list(range(TRIALS))
    assert all(record.evaluation.failure is None for record in records)


def test_full_records_are_told_in_a_line_and_the_search_goes_on(
    disk: Callable[[str], Path], tmp_path: Path
) -> None:
    place = disk("40k")
    done = _search(
        *SETTINGS, "--run", "run", "--records", str(place / "records"), directory=tmp_path
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert "No space left on device" in last
    assert "--resume" in last
    disk("100m")
    again = _search("--resume", "run", directory=tmp_path)
    assert again.returncode == 0, again.stderr[-1000:]
    assert len(RunDirectory.open(tmp_path / "run").finished_trials()) == TRIALS
