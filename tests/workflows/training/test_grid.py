"""The paper's grid of eight trainings: what each changes, which is best, and that it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workflows.training.test_full import NOTATION, Heard
from tvm_mnas.errors import RunError, TrainingError
from tvm_mnas.evaluation.executors.inline import InlineExecutor
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows.training import side_by_side
from tvm_mnas.workflows.training.grid import Combination, train_grid
from tvm_mnas.workflows.training.request import TrainingRequest, read_request, read_result
from tvm_mnas.workflows.training.side_by_side import SideBySide

REQUEST = TrainingRequest(
    notation=NOTATION, data="embedded", recipe=Recipe(steps=2, batch_size=16, optimizer="rmsprop")
)


class Here(InlineExecutor):
    """Trains in this process; two combinations diverge."""

    def __init__(self, *, jobs: int) -> None:
        super().__init__()

    def submit(self, function: Any, task: Any, on_end: Any) -> Any:
        name = task.directory.name

        def run(task: Any, report: Any) -> Any:
            if "learning_rate=0.256" in name and "2e-05" in name:
                raise TrainingError("the training diverged")
            return function(task, report)

        return super().submit(run, task, on_end)


def go(out: Path, request: TrainingRequest = REQUEST) -> tuple[Combination, ...]:
    return train_grid(out, request, how=SideBySide(), observer=Heard())


def test_the_eight_settings_of_the_paper_are_trained_and_the_best_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "LocalExecutor", Here)
    found = go(tmp_path / "grid")
    assert len(found) == 8
    settings = {
        (one.changes["weight_decay"], one.changes["learning_rate"], one.changes["batch_norm_decay"])
        for one in found
    }
    assert settings == {
        (decay, rate, norm) for decay in (1e-5, 2e-5) for rate in (0.256, 0.128) for norm in (0.9997, 0.999)
    }  # fmt: skip
    for one in found:
        recipe = read_request(one.directory).recipe
        assert (recipe.weight_decay, recipe.learning_rate, recipe.batch_norm_decay) == tuple(
            one.changes.values()
        )
        assert (recipe.steps, recipe.optimizer) == (2, "rmsprop")
        assert one.result == read_result(one.directory)
    top1 = [one.validation_top1 for one in found]
    assert top1 == sorted(top1, reverse=True)
    assert [one.failure for one in found[-2:]] == ["the training diverged"] * 2
    assert all(one.result is not None and one.failure is None for one in found[:-2])

    before = {one.directory: one.result for one in found}
    monkeypatch.setattr(
        "tvm_mnas.workflows.training.side_by_side.train", lambda *a, **b: pytest.fail("trained again")
    )  # fmt: skip
    assert {one.directory: one.result for one in go(tmp_path / "grid")} == before


def test_a_directory_of_another_grid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "LocalExecutor", Here)
    go(tmp_path / "grid")
    other = TrainingRequest(notation=NOTATION, data="embedded", recipe=REQUEST.recipe, seed=1)
    with pytest.raises(RunError, match="is of another training"):
        go(tmp_path / "grid", other)
