"""The journal of a study: what is remembered of it while it grows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

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


def test_trials_are_listed_as_optuna_lists_them(tmp_path: Path) -> None:
    """Whatever ends in whatever order, of two studies in one journal, and what is asked for with each state."""
    rng = random.Random(0)
    storage = journal_storage(tmp_path / "j")
    studies = [optuna.create_study(study_name=name, storage=storage) for name in ("a", "b")]
    running: list[tuple[optuna.Study, optuna.Trial]] = []
    groups = [None, *((state,) for state in TrialState), (TrialState.RUNNING, TrialState.FAIL)]
    for _ in range(60):
        study = rng.choice(studies)
        if rng.random() < 0.5:
            running.append((study, study.ask()))
        elif rng.random() < 0.2:
            study.enqueue_trial({"x": 0.5})
        elif running:
            of, trial = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.3:
                of.tell(trial, state=TrialState.FAIL)
            else:
                of.tell(trial, trial.suggest_float("x", 0, 1))
        for one in studies:
            for states in groups:
                found = storage.get_all_trials(one._study_id, deepcopy=False, states=states)
                naive = JournalStorage.get_all_trials(
                    storage, one._study_id, deepcopy=False, states=states
                )
                assert found == naive
            listed = storage.get_all_trials(one._study_id, deepcopy=False)
            copied = storage.get_all_trials(one._study_id)
            assert copied == listed
            assert all(a is not b for a, b in zip(copied, listed, strict=True))
    assert len(studies[0].get_trials()) > 10
    with pytest.raises(KeyError):
        storage.get_all_trials(17)
