"""An accuracy's invariants and its form on disk."""

from __future__ import annotations

import json

import pytest

from tvm_mnas.errors import RunError
from tvm_mnas.training.accuracy import Accuracy

GOOD = Accuracy(
    top1=0.75, samples=300, steps=160, train_loss=0.5, duration_s=7.5, seed=3, split="validation"
)


def test_json_round_trip() -> None:
    assert Accuracy.from_json(json.loads(json.dumps(GOOD.to_json()))) == GOOD


def test_standard_error_is_binomial() -> None:
    assert GOOD.standard_error == pytest.approx(0.025)


@pytest.mark.parametrize(
    "change",
    [{"top1": 75.0}, {"samples": 0}, {"split": "train"}, {"steps": None}, {"train_loss": "low"}],
)
def test_impossible_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        Accuracy.from_json({**GOOD.to_json(), **change})


def test_missing_and_unknown_fields_are_named() -> None:
    stored = GOOD.to_json()
    del stored["seed"]
    with pytest.raises(RunError, match="wrong: seed, top5"):
        Accuracy.from_json({**stored, "top5": 0.9})
