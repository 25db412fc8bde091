"""Finished trials in memory: the same ones, in a tenth of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import optuna

from tests.search.test_loop import go_on, new_run
from tvm_mnas.search.algorithms.batches import distributions_of
from tvm_mnas.search.study.compact import EVALUATION_ATTRIBUTE, Packed, Packer
from tvm_mnas.space.files import load_space


def test_finished_trials_are_made_compact_and_are_the_same_trials(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", space="quickstart", algorithm="ppo", trials=14)
    go_on(run.path)
    before, records = run.study().get_trials(), run.finished_trials()
    study = run.study()
    packer = Packer(distributions_of(load_space("quickstart").decisions))
    for _ in range(2):
        packer.pack(study.get_trials(deepcopy=False))
        assert run.trials(study) == records
    trials = study.get_trials(deepcopy=False)
    for trial, stored in zip(trials, before, strict=True):
        packed = trial.user_attrs[EVALUATION_ATTRIBUTE]
        assert isinstance(packed, Packed)
        unpacked = copy.copy(trial)
        unpacked.user_attrs = {**trial.user_attrs, EVALUATION_ATTRIBUTE: packed.value()}
        assert unpacked == stored
        assert len(packed) < len(json.dumps(stored.user_attrs[EVALUATION_ATTRIBUTE])) / 3
    assert len({id(trial.distributions) for trial in trials}) == 1
    # One with other parameters, as somebody may put into the queue, keeps its own.
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=1.0))
    packer.pack(study.get_trials(deepcopy=False))
    assert study.trials[0].distributions == {}
