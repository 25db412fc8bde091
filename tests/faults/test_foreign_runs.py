"""A run directory that somebody sent: it is shown, and it neither runs code nor writes outside of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import make_latency, make_success, sample_architectures
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import RunError
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.search.study.compact import EVALUATION_ATTRIBUTE

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("here")
def build(*_, **__): pass
SPACE = make = train = build
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def evil_file(path: Path, marker: Path) -> Path:
    path.write_text(CODE.format(marker=str(marker)))
    return path


def report(run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_mnas", "report", str(run)],
        cwd=run.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_with(path: Path, *, notation: str | None = None, **settings: str) -> RunDirectory:
    """A run of one finished trial, whose candidate has this notation."""
    run = RunDirectory.create(path, replace(SearchConfig(), **settings))
    (architecture,) = sample_architectures(1)
    values = make_success(0, architecture, 0.7, make_latency(0.05)).evaluation.to_json()
    if notation is not None:
        values["architecture"] = notation
        values["counted"] = {"mult_adds": 1000, "parameters": 100}
    study = run.study()
    trial = study.ask()
    trial.set_user_attr(EVALUATION_ATTRIBUTE, json.loads(json.dumps(values)))
    study.tell(trial, [0.7, 0.05])
    return run


def test_a_report_of_a_run_runs_no_code_that_it_names(tmp_path: Path, marker: Path) -> None:
    """Neither what its configuration names, nor what its candidates are built by."""
    evil = evil_file(tmp_path / "evil.py", marker)
    run = run_with(
        tmp_path / "run",
        space=f"{evil}:SPACE",
        trainer=f"{evil}:train",
        algorithm=f"{evil}:make",
        executor=f"{evil}:make",
        data=f"{evil}:make",
        notation=f"{evil}:build@3x8,n10?width=8",
    )
    done = report(run.path)
    assert done.returncode == 0, done.stderr
    assert "evil" in (run.path / "report" / "index.html").read_text()
    assert not marker.exists()


@pytest.mark.parametrize("part", ["space", "trainer", "algorithm", "executor", "data"])
def test_code_within_a_run_is_refused(part: str, tmp_path: Path, marker: Path) -> None:
    run = run_with(tmp_path / "run", **{part: f"{tmp_path}/run/evil.py:make"})
    evil_file(run.path / "evil.py", marker)
    with pytest.raises(RunError, match="the code that a run names lies outside of it"):
        RunDirectory.open(run.path)
    done = report(run.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tvm-mnas: error:")
    assert not marker.exists()


def test_code_within_a_run_is_found_by_whatever_way_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "door").symlink_to(tmp_path / "run")
    for name in ("run/evil.py:make", "door/evil.py:make", "door/../run/./evil.py:make"):
        run = run_with(tmp_path / "run", trainer=name)
        with pytest.raises(RunError, match="lies within"):
            RunDirectory.open(run.path)
        subprocess.run(["rm", "-r", str(run.path)], check=True)


@pytest.mark.parametrize("name", ["report", "best", "logs", "finalists", "controller.safetensors"])
def test_a_link_out_of_a_run_is_refused_and_nothing_is_written_there(
    name: str, tmp_path: Path
) -> None:
    run = run_with(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (run.path / name).symlink_to(outside)
    done = report(run.path)
    assert done.returncode == 1
    assert f"{name} is a link to {outside}" in done.stderr
    assert list(outside.iterdir()) == []
    (run.path / name).unlink()
    (run.path / name).symlink_to("run.lock")  # within it may link as it likes
    RunDirectory.open(run.path)
