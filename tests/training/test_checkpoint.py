"""A training that is interrupted at any step and resumed is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.colours import write_colours
from tvm_mnas.errors import RunError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.checkpoint import load_checkpoint_into, save_checkpoint
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import Batch, DataSplits, batches_from
from tvm_mnas.training.loop import TrainingState, run_training, start_training
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.tasks import Classification
from tvm_mnas.workflows.data import make_cache

FACTS = {"architecture": "tiny", "seed": 3}
RECIPES = {
    "adamw": Recipe(steps=12, batch_size=8, dropout=0.3, warmup_steps=3, ema_decay=0.9),
    "rmsprop": replace(Recipe(steps=12, batch_size=8, dropout=0.2), optimizer="rmsprop"),
    "sgd": Recipe(steps=12, batch_size=8, optimizer="sgd", ema_decay=0.5, crop_padding=2),
    "bf16": Recipe(steps=12, batch_size=8, precision="bf16"),
}


class Stop(Exception):
    """An interruption."""


def content(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return every tensor of a state."""
    found = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    if state.average is not None:
        found |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for index, kept in state.optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            found[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    found["losses"] = torch.tensor(list(state.losses))
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_training_equals_the_uninterrupted_one(
    tiny: Architecture, tiny_splits: DataSplits, tmp_path: Path, name: str, stop: int
) -> None:
    plan = RECIPES[name].plan(len(tiny_splits.train))
    file = tmp_path / "checkpoint.safetensors"

    def train(state: TrainingState, *, until: int | None = None) -> None:
        def watch(now: TrainingState) -> None:
            if now.step == until:
                save_checkpoint(now, file, facts=FACTS)
                raise Stop

        run_training(state, plan, tiny_splits, task=Classification(), seed=3, on_state=watch)

    whole = start_training(tiny, plan, seed=3)
    train(whole)
    broken = start_training(tiny, plan, seed=3)
    with pytest.raises(Stop):
        train(broken, until=stop)
    torch.manual_seed(99)  # what is drawn meanwhile must not matter
    resumed = start_training(tiny, plan, seed=3)
    load_checkpoint_into(resumed, file, facts=FACTS)
    assert resumed.step == stop
    train(resumed)
    expected, found = content(whole), content(resumed)
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert resumed.step == whole.step == plan.steps


@pytest.mark.parametrize("kind", ["memory", "files", "cache"])
def test_batches_from_the_middle_are_those_of_the_whole(
    tiny_splits: DataSplits, tmp_path: Path, kind: str
) -> None:
    splits = tiny_splits
    if kind != "memory":
        write_colours(tmp_path / "colours")
        spec = f"imagefolder:{tmp_path / 'colours'}"
        if kind == "cache":
            make_cache(
                spec, tmp_path / "copy", size=20, workers=0, seed=0, max_bad_images=0,
                on_progress=lambda done, total: None,
            )  # fmt: skip
            spec = f"cache:{tmp_path / 'copy'}"
        splits = load_data(spec, LoadOptions(input_size=16, workers=0))

    def batches(start: int) -> list[Batch]:
        return list(batches_from(splits.train, start, batch_size=6, steps=7, seed=4))

    whole = batches(0)
    for start in (1, 4, 7):
        rest = batches(start)
        assert len(rest) == 7 - start
        for (images, labels), (expected, expected_labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)


@pytest.fixture
def saved(tiny: Architecture, tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.safetensors"
    plan = RECIPES["adamw"].plan(100)
    save_checkpoint(start_training(tiny, plan, seed=3), file, facts=FACTS)
    return file


def test_a_checkpoint_of_another_training_is_refused(tiny: Architecture, saved: Path) -> None:
    state = start_training(tiny, RECIPES["adamw"].plan(100), seed=3)
    with pytest.raises(RunError, match=r'architecture is "tiny", not "other"') as caught:
        load_checkpoint_into(state, saved, facts=FACTS | {"architecture": "other"})
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_used_is_one_line(tiny: Architecture, saved: Path) -> None:
    plan = RECIPES["adamw"].plan(100)
    other = Architecture.parse("i16_c3_w1:stem8_s22:r1_k3_s11_e1_o8:head8:n4")
    whole = saved.read_bytes()
    for damage, words in (
        (lambda: None, "does not fit the network"),
        (lambda: saved.write_bytes(whole[: len(whole) // 2]), "cannot be read"),
        (lambda: saved.write_bytes(b""), "cannot be read"),
        (lambda: saved.unlink(), "cannot be read"),
    ):
        damage()
        with pytest.raises(RunError, match=words) as caught:
            load_checkpoint_into(start_training(other, plan, seed=3), saved, facts=FACTS)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_holds_nothing_that_runs(saved: Path) -> None:
    size = int.from_bytes(saved.read_bytes()[:8], "little")
    header = json.loads(saved.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["checkpoint"])["facts"] == FACTS
