"""The journal of a study: what is remembered of it while it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna

from tvm_mnas.search.study.journal import journal_storage


def test_a_journal_is_read_on_without_where_each_line_begins(tmp_path: Path) -> None:
    mine, other = (
        optuna.create_study(
            study_name="one", storage=journal_storage(tmp_path / "j"), load_if_exists=True
        )
        for _ in range(2)
    )
    for study in (mine, other, mine, mine, other):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert len(mine.trials) == len(other.trials) == 15
    assert mine.trials == other.trials
    backend: Any = mine._storage._backend  # type: ignore[attr-defined]  # a journal's has one
    assert len(backend._log_number_offset) == 2
    # From the beginning, and from the middle, whose place is forgotten.
    lines = list(backend.read_logs(0))
    assert lines == [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert list(backend.read_logs(7)) == lines[7:]
