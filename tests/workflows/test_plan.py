"""What a search would take: the arithmetic by hand, the few steps that are measured, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, DataError
from tvm_mnas.evaluation.executors.inline import InlineExecutor
from tvm_mnas.evaluation.executors.protocol import ExecutorRequest
from tvm_mnas.evaluation.trainers import TrainTask
from tvm_mnas.report.text import plan_lines, plan_rows
from tvm_mnas.space.catalogue import find_space
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows import plan as planning
from tvm_mnas.workflows.plan import (
    TIMED_STEPS,
    WARM_STEPS,
    DevicePace,
    SearchPlan,
    TrainingPace,
    plan_search,
    probe_training,
)

NOTATION = "i32_c3_w1:stem8_s22:r1_k3_s22_e1_i8_o8:head8:n10"
DEVICE = DevicePace(
    kernels=600, lacking=500, all_known=True, schedules=4000, schedule_s=0.5, candidate_s=2.0
)
PLAN = SearchPlan(
    trials=1000,
    replicates=24,
    finalists=2,
    final_factor=4,
    places="accelerators",
    at_once=4,
    steps=500,
    epochs=5.0,
    training=TrainingPace(
        step_s=0.2, batch_size=64, evaluated_per_s=1000, train_images=6400, validation_images=5000
    ),
    device=DEVICE,
)


class Silent:
    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def test_the_sums_are_worked_out_by_hand() -> None:
    # 500 steps of 0.2 s, and 5 s of evaluation.
    assert PLAN.candidate_training_s == pytest.approx(105)
    # 1000 candidates, 24 again, and 2 finalists four times as long.
    assert PLAN.training_s == pytest.approx(105 * 1032)
    assert PLAN.device_s == pytest.approx(4000 * 0.5 + 1000 * 2)
    assert PLAN.total_s(8) == pytest.approx(105 * 1032 / 8 + 4000)
    assert PLAN.training.images_per_s == pytest.approx(320)
    assert PLAN.bottleneck == "training"
    assert replace(PLAN, at_once=64).bottleneck == "device"
    values = PLAN.to_json()
    assert values["total_s"] == {
        "4": PLAN.total_s(4), "1": PLAN.total_s(1), "8": PLAN.total_s(8), "64": PLAN.total_s(64)
    }  # fmt: skip
    assert (values["schema"], values["device"]["lacking"]) == (1, 500)


def test_it_is_told_in_a_table_and_a_sentence() -> None:
    rows = {str(row["what"]): row["how_much"] for row in plan_rows(PLAN)}
    assert rows["images a second, one training"] == "320"
    assert rows["training a candidate (500 steps, 5.00 epochs)"] == "2 min"
    assert rows["trainings: candidates, again, finalists"] == "1,000 + 24 + 2 x 4"
    assert rows["accelerator-hours in all"] == "30.10"
    assert rows["kernels to tune"] == "500 of 600"
    assert rows["tuning (4,000 schedules, 0.5 s each)"] == "33 min"
    assert rows["device-hours in all"] == "1.11"
    (line,) = plan_lines(PLAN)
    assert line == (
        "about 8.6 h with the 4 accelerators here, 87% of it training; with 1 31.2 h, with 8 4.9 h, with 64 95 min"
    ).replace("95 min", "1.6 h")
    rough = plan_lines(replace(PLAN, at_once=64, epochs=0.5))
    assert "70% of it at the device" in rough[0]
    assert "0.50 epochs" in rough[1]
    unknown = plan_rows(replace(PLAN, device=replace(DEVICE, all_known=False)))
    assert any("or more" in str(row["how_much"]) for row in unknown)


def test_a_few_steps_and_images_are_timed() -> None:
    task = TrainTask(
        notation=NOTATION, data="embedded", data_seed=0, seed=1, recipe=Recipe(steps=5000, batch_size=16)
    )  # fmt: skip
    reported: list[int] = []
    pace = probe_training(task, reported.append)
    assert reported == list(range(1, WARM_STEPS + TIMED_STEPS + 1))
    assert (pace.train_images, pace.validation_images, pace.batch_size) == (8000, 2000, 16)
    assert 0 < pace.step_s < 5
    assert pace.evaluated_per_s > 0


def pretending(request: ExecutorRequest) -> InlineExecutor:
    """Return an executor that says it runs as many tasks side by side as it is asked to."""
    executor = InlineExecutor()
    executor.slots = request.jobs
    return executor


def config(**changes: Any) -> SearchConfig:
    return SearchConfig(executor=f"{__file__}:pretending", jobs=2, **changes)


def test_a_plan_has_the_means_of_trainings_side_by_side_and_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "_device_pace", lambda *arguments: DEVICE)
    steps = iter([0.1, 0.3])
    monkeypatch.setattr(
        planning, "probe_training", lambda task, report: replace(PLAN.training, step_s=next(steps))
    )
    found = plan_search(
        config(trials=30, replicates=4, final_steps=250),
        Recipe(epochs=2, batch_size=64),
        find_space("quickstart"),
        observer=Silent(),
    )
    assert found.training.step_s == pytest.approx(0.2)
    assert (found.steps, found.epochs, found.at_once, found.places) == (200, 2.0, 2, "cores")
    assert (found.trials, found.replicates, found.finalists, found.final_factor) == (30, 8, 2, 1.25)
    assert found.device is DEVICE


def test_what_a_training_cannot_do_ends_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(task: TrainTask, report: object) -> None:
        raise DataError("the data is gone")

    monkeypatch.setattr(planning, "probe_training", lacks)
    with pytest.raises(DataError, match="the data is gone"):
        plan_search(config(), Recipe(steps=5), find_space("quickstart"), observer=Silent())


def test_the_pace_of_a_trainer_of_ones_own_is_not_known() -> None:
    with pytest.raises(ConfigError, match="not 'mine:train'"):
        plan_search(
            config(trainer="mine:train"),
            Recipe(steps=5),
            find_space("quickstart"),
            observer=Silent(),
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_begins_with_the_records_of_its_plan(tmp_path: Any) -> None:
    space = find_space("tests/integration/few_kernels.toml")
    settings = config(
        trials=3, schedules_per_kernel=2, records=str(tmp_path / "records"), train_steps=4
    )
    recipe = Recipe(steps=4, batch_size=16)
    first = plan_search(settings, recipe, space, observer=Silent())
    assert first.device.schedules >= first.device.lacking > 0
    assert first.device.schedule_s > 0
    assert first.device.kernels > first.device.lacking, "those of one candidate are tuned"
    again = plan_search(settings, recipe, space, observer=Silent())
    assert again.device.lacking == first.device.lacking
    assert 0 < again.device.candidate_s < 60
