"""The soak: that it finishes, resumes and reports, and what its figures are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import optuna
import pytest

from tvm_mnas.search.run import RunDirectory

Script = Callable[[str], ModuleType]


def test_overheads_are_the_differences_of_the_ends(script: Script) -> None:
    watch = script("soak").Watch(every=2)
    watch.ended_s = [0.0, 0.01, 0.02, 0.08]
    assert watch.overhead_ms() == pytest.approx(80 / 3)
    assert watch.overhead_ms(1) == pytest.approx(60)
    assert watch.median_ms() == pytest.approx(10)


def test_a_small_soak_finishes_and_goes_on(script: Script, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = script("soak")
    found = module.soak(
        tmp_path / "run", trials=24, algorithm="evolution", batch=8, lag=1, url="", every=8
    )
    run = RunDirectory.open(tmp_path / "run")
    assert len(run.finished_trials()) == 25, "one more after it was resumed"
    assert set(found) >= {"overhead a trial, mean (ms)", "time to resume (s)", "time to report (s)"}
    assert all(value > 0 for value in found.values())
    assert (tmp_path / "run" / "report" / "index.html").is_file()
