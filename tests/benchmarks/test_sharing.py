"""What twins would lose with each other's schedules, by their records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


def test_a_twin_loses_what_its_own_best_tile_would_have_gained(script: Script) -> None:
    twins = {
        "agree": [[2.0, 1.0, 3.0], [4.0, 2.0, 8.0]],
        # The third tile, which only one has, counts for neither.
        "differ": [[1.0, 2.0, 0.5], [6.0, 4.0]],
        "alone": [[1.0, 2.0]],
        "no choice": [[1.0], [2.0, 1.0]],
    }
    assert script("sharing").losses(twins) == [1.0, 1.0, 1.5, 2.0]


def test_the_shipped_records_have_convolutions(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (store,) = (Path(__file__).parents[2] / "tuning_logs" / "shipped").glob("local-*")
    monkeypatch.setattr("sys.argv", ["sharing.py", str(store)])
    assert script("sharing").main() == 0
    first, *_ = capsys.readouterr().out.splitlines()
    kernels = len((store / "database_workload.json").read_text().splitlines())
    assert first.startswith(f"{kernels} kernels, of them ")
    # Poolings, gates and dense layers are no convolution.
    assert 50 < int(first.split()[4]) < kernels


def test_a_directory_without_a_store_is_one_line(
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["sharing.py", str(tmp_path / "none")])
    assert script("sharing").main() == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
