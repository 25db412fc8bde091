"""Trainings on an accelerator, where there is one: `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.accelerators import find_devices
from tvm_mnas.training.checkpoint import load_checkpoint_into, save_checkpoint
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import DataSplits
from tvm_mnas.training.loop import run_training, start_training, train_candidate
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.tasks import Classification

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator"),
]

NETWORK = Architecture.parse(
    "i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:r1_k5_s22_e3_i8_o16:head32:n10"
)
RECIPE = Recipe(
    steps=60, batch_size=64, warmup_steps=6, batch_norm_decay=0.9, zero_init_residual=True
)


@pytest.fixture(scope="module")
def splits() -> DataSplits:
    return load_data("embedded", LoadOptions(input_size=32))


def test_auto_and_cuda_find_every_accelerator() -> None:
    names = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    assert find_devices("auto") == find_devices("cuda") == names
    assert find_devices("cuda:0") == ("cuda:0",)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_each_precision_learns_as_the_cpu_does(splits: DataSplits, precision: str) -> None:
    recipe = replace(RECIPE, precision=precision)
    found = train_candidate(NETWORK, splits, recipe, seed=0, device="cuda:0")
    expected = train_candidate(NETWORK, splits, RECIPE, seed=0)
    assert found.accuracy.top1 == pytest.approx(expected.accuracy.top1, abs=0.06)
    assert next(found.network.parameters()).device.type == "cpu"


def test_an_evaluation_is_that_of_the_cpu(splits: DataSplits) -> None:
    network = train_candidate(NETWORK, splits, RECIPE, seed=0).network
    here = Classification().evaluate(network, splits.validation, splits.normalization)
    there = Classification().evaluate(network.to("cuda:0"), splits.validation, splits.normalization)
    assert there.value == pytest.approx(here.value, abs=0.002)
    assert there.samples == here.samples


def test_a_compiled_network_learns(splits: DataSplits) -> None:
    recipe = replace(RECIPE, compile_network=True)
    found = train_candidate(NETWORK, splits, recipe, seed=0, device="cuda:0")
    assert found.accuracy.top1 > 0.3


def test_a_scaler_and_an_average_come_back_from_a_checkpoint(
    splits: DataSplits, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, precision="fp16", ema_decay=0.9, steps=12)
    plan = recipe.plan(len(splits.train))
    state = start_training(NETWORK, plan, seed=0, device="cuda:0")
    run_training(state, plan, splits, task=Classification(), seed=0, device="cuda:0")
    save_checkpoint(state, tmp_path / "checkpoint", facts={})
    back = start_training(NETWORK, plan, seed=1, device="cuda:0")
    load_checkpoint_into(back, tmp_path / "checkpoint", facts={})
    assert back.scaler.state_dict() == state.scaler.state_dict()
    assert back.step == 12
    for one, two in zip(
        state.best_network.parameters(), back.best_network.parameters(), strict=True
    ):
        assert torch.equal(one, two)
