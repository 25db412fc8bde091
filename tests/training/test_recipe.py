"""Recipes: every file in recipes/, the rates of their schedules worked out by hand, and mistakes in one line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tvm_mnas.errors import ConfigError
from tvm_mnas.resources import resource_directory
from tvm_mnas.training.recipe import (
    Recipe,
    find_recipe,
    parse_changes,
    recipe_from,
    recipe_names,
)

FILES = sorted(resource_directory("recipes").glob("*.toml"))
SHORT = Recipe(steps=40, batch_size=32)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_loads_says_what_it_is_and_comes_back_from_its_text(path: Path) -> None:
    recipe = find_recipe(path.stem)
    assert recipe.description
    assert find_recipe(str(path)) == recipe
    import tomllib

    assert recipe_from(tomllib.loads(recipe.to_toml()), source="saved") == recipe
    plan = recipe.plan(50_000)
    rates = [plan.rate_at(step) for step in range(0, plan.steps, max(1, plan.steps // 500))]
    assert all(0 <= rate <= plan.peak_rate * 1.0001 for rate in rates)
    assert max(rates) > 0.6 * plan.peak_rate


def test_the_recipes_that_ship_are_these() -> None:
    assert recipe_names() == (
        "coco-ssdlite",
        "drawn",
        "embedded",
        "finetune",
        "imagenet-full",
        "imagenet-proxy",
    )


def test_the_full_schedule_of_the_paper_worked_out_by_hand() -> None:
    # 1,281,167 images less 50,000 in batches of 4,096: 300.578 steps an epoch.
    recipe = replace(find_recipe("imagenet-full"), batch_size=4096)
    plan = recipe.plan(1_231_167)
    assert plan.steps == 105_202
    assert plan.epochs == pytest.approx(350, abs=1e-3)
    assert plan.peak_rate == 0.256
    assert plan.rate_at(0) == 0.0
    # Half of the warm-up's 1,502.9 steps.
    assert plan.rate_at(751) == pytest.approx(0.256 * 751 / 1502.89, rel=1e-4)
    # After 5 epochs two decays are past: 4.8 = 2 x 2.4.
    assert plan.rate_at(1503) == pytest.approx(0.256 * 0.97**2)
    assert plan.rate_at(int(7.1 * 300.578)) == pytest.approx(0.256 * 0.97**2)
    assert plan.rate_at(int(7.3 * 300.578)) == pytest.approx(0.256 * 0.97**3)
    # 350 / 2.4 = 145.8.
    assert plan.rate_at(plan.steps - 1) == pytest.approx(0.256 * 0.97**145)


def test_the_values_of_the_paper_are_those_of_the_full_recipe() -> None:
    recipe = find_recipe("imagenet-full")
    assert (recipe.optimizer, recipe.rms_decay, recipe.momentum, recipe.epsilon) == (
        "rmsprop", 0.9, 0.9, 1e-3,
    )  # fmt: skip
    assert (recipe.weight_decay, recipe.batch_norm_decay) == (1e-5, 0.9997)
    assert (recipe.warmup_epochs, recipe.decay_factor, recipe.decay_epochs) == (5, 0.97, 2.4)
    assert recipe.ema_decay == 0.9999
    # 0.016 for each 256 images, in the authors' code.
    assert replace(recipe, batch_size=256).plan(1_000_000).peak_rate == pytest.approx(0.016)


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    plan = Recipe(steps=100, warmup_steps=10, learning_rate=0.01).plan(1000)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.01 / 11)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(0.01) == pytest.approx(max(rates))
    assert rates[55] == pytest.approx(0.005)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.0 < rates[-1] < 1e-5
    assert replace(SHORT, schedule="constant").plan(9).rate_at(39) == SHORT.learning_rate


def test_epochs_become_steps_of_the_data() -> None:
    plan = Recipe(epochs=2.5, batch_size=64).plan(1000)
    assert plan.steps == 39  # 2.5 x 15.625
    assert plan.steps_per_epoch == 15.625
    assert Recipe(epochs=0.001, batch_size=64).plan(64).steps == 1


def test_a_length_takes_the_place_of_the_other() -> None:
    assert find_recipe("imagenet-proxy", {"steps": 7}) == replace(
        find_recipe("imagenet-proxy"), steps=7, epochs=0
    )
    changed = find_recipe("embedded", {"epochs": 3, "warmup_epochs": 1})
    assert (changed.steps, changed.epochs) == (0, 3)
    assert (changed.warmup_steps, changed.warmup_epochs) == (0, 1)
    assert find_recipe("embedded").lasting(epochs=0.5).length == "0.5ep"
    assert find_recipe("embedded").length == "120"


def test_values_are_set_as_toml_reads_them() -> None:
    texts = ["ema_decay=0.99", "optimizer=sgd", "compile_network = true", "description='a b'"]
    assert parse_changes(texts) == {
        "ema_decay": 0.99,
        "optimizer": "sgd",
        "compile_network": True,
        "description": "a b",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1},
        {"batch_size": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"dropout": -0.1},
        {"batch_norm_decay": 1.0},
        {"warmup_steps": -1},
        {"ema_decay": 1.0},
        {"decay_factor": 0.0},
        {"optimizer": "adam"},
        {"schedule": "linear"},
        {"precision": "int8"},
        {"steps": 3.5},
        {"compile_network": 1},
        {"reference_batch": -1},
    ],
    ids=str,
)
def test_impossible_recipes_cannot_be_built(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        replace(SHORT, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 5, "epochs": 2}, "steps or epochs, not both 5 steps and 2 epochs"),
        ({}, "neither is given"),
        ({"steps": 5, "warmup_steps": 1, "warmup_epochs": 1}, "a warm-up has steps or epochs"),
        ({"steps": 5, "learning_rat": 1}, "did you mean learning_rate?"),
        ({"steps": 5, "zzz": 1}, "zzz is no value of a recipe, only description, steps"),
        ({"steps": "5"}, "steps must be a whole number, not '5'"),
    ],
)
def test_a_mistake_in_a_recipe_names_its_file(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_from(values, source="my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_or_no_toml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.toml").write_text("steps = ")
    for text, words in (
        ("imagenet-ful", "did you mean imagenet-full?"),
        ("../recipes/embedded", "unknown recipe"),
        (str(tmp_path / "gone.toml"), "No such file"),
        (str(tmp_path / "torn.toml"), "is valid TOML, and this file is not"),
    ):
        with pytest.raises(ConfigError, match=words.replace("?", r"\?")) as caught:
            find_recipe(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="KEY=VALUE, not 'ema_decay'"):
        parse_changes(["ema_decay"])
