"""The short training: it learns, repeats by seed, sees divergence and keeps off the test split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from tvm_mnas.errors import DataError, TrainingError
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import Batch, DataSplits, Split
from tvm_mnas.training.loop import train_candidate
from tvm_mnas.training.recipe import find_recipe
from tvm_mnas.training.tasks import Classification

EMBEDDED = find_recipe("embedded")
SHORT = replace(EMBEDDED, steps=40, batch_size=32)


@dataclass(frozen=True)
class Forbidden:
    """A split that must not be touched."""

    def __len__(self) -> int:
        raise AssertionError("the test split was asked for its length")

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        raise AssertionError("the test split was trained on")

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        raise AssertionError("the test split was evaluated")


@dataclass(frozen=True)
class Poisoned:
    """A split whose images become NaN at one step."""

    split: Split
    step: int

    def __len__(self) -> int:
        return len(self.split)

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        batches = self.split.train_batches(batch_size=batch_size, steps=steps, seed=seed)
        for index, (images, labels) in enumerate(batches, start=1):
            yield (images * math.nan if index == self.step else images), labels

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        return self.split.eval_batches(batch_size=batch_size)


def test_it_learns_without_touching_the_test_split(
    tiny: Architecture, tiny_splits: DataSplits
) -> None:
    trained = train_candidate(tiny, replace(tiny_splits, test=Forbidden()), SHORT, seed=0)
    accuracy = trained.accuracy
    assert accuracy.top1 > 0.6  # chance is 0.25
    score = Classification().evaluate(
        trained.network, tiny_splits.validation, tiny_splits.normalization
    )
    assert accuracy.top1 == score.value == score.measures["top1"]
    assert score.measures["top5"] == 1.0, "of four classes"
    assert (accuracy.samples, accuracy.steps, accuracy.split) == (200, 40, "validation")
    assert 0.0 < accuracy.train_loss < 1.3
    assert accuracy.duration_s > 0.0
    assert not trained.network.training


def test_embedded_images_are_learned_in_few_steps() -> None:
    architecture = Architecture.parse(
        "i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:r1_k3_s22_e3_i8_o16:r1_k3_s22_e3_i16_o32:head64:n10"
    )
    splits = load_data("embedded", LoadOptions(input_size=32, seed=0))
    trained = train_candidate(architecture, splits, EMBEDDED.lasting(steps=60), seed=0)
    assert trained.accuracy.top1 > 0.55


def test_same_seed_same_weights(tiny: Architecture, tiny_splits: DataSplits) -> None:
    recipe = replace(SHORT, steps=8, dropout=0.3)
    first = train_candidate(tiny, tiny_splits, recipe, seed=5).network.state_dict()
    torch.rand(3)  # the global generator must not matter
    again = train_candidate(tiny, tiny_splits, recipe, seed=5).network.state_dict()
    other = train_candidate(tiny, tiny_splits, recipe, seed=6).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_training_leaves_the_global_generator_alone(
    tiny: Architecture, tiny_splits: DataSplits
) -> None:
    before = torch.random.get_rng_state()
    train_candidate(tiny, tiny_splits, replace(SHORT, steps=2, dropout=0.5), seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_step_is_reported(tiny: Architecture, tiny_splits: DataSplits) -> None:
    seen: list[tuple[int, int]] = []
    recipe = replace(SHORT, steps=3)
    train_candidate(tiny, tiny_splits, recipe, seed=0, on_step=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_divergence_names_step_and_loss(tiny: Architecture, tiny_splits: DataSplits) -> None:
    poisoned = replace(tiny_splits, train=Poisoned(tiny_splits.train, step=4))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4 of 40"):
        train_candidate(tiny, poisoned, SHORT, seed=0)


def test_an_absurd_rate_is_a_failed_candidate(tiny: Architecture, tiny_splits: DataSplits) -> None:
    recipe = replace(SHORT, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"diverged|not finite"):
        train_candidate(tiny, tiny_splits, recipe, seed=0)


def test_outputs_that_are_not_finite_are_no_accuracy(
    tiny: Architecture, tiny_splits: DataSplits
) -> None:
    network = build_network(tiny)
    torch.nn.init.constant_(network.classifier.bias, math.nan)
    with pytest.raises(TrainingError, match="not finite"):
        Classification().evaluate(network, tiny_splits.validation, tiny_splits.normalization)


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_evaluation_counts_every_image_once(
    tiny: Architecture, tiny_splits: DataSplits, batch_size: int
) -> None:
    network = build_network(tiny)
    torch.nn.init.zeros_(network.classifier.weight)
    torch.nn.init.constant_(network.classifier.bias[2:3].detach(), 1.0)
    labels = torch.cat([y for _, y in tiny_splits.validation.eval_batches(batch_size=64)])
    share = float((labels == 2).float().mean())
    score = Classification(batch_size=batch_size).evaluate(
        network, tiny_splits.validation, tiny_splits.normalization
    )
    assert score.value == pytest.approx(share)
    assert score.samples == len(labels)


@pytest.mark.parametrize(
    ("notation", "words"),
    [
        ("i16_c1_w1:stem8_s22:r1_k3_s11_e1_o8:head8:n4", "3 channels"),
        ("i32_c3_w1:stem8_s22:r1_k3_s11_e1_o8:head8:n4", "input size is 32"),
        ("i16_c3_w1:stem8_s22:r1_k3_s11_e1_o8:head8:n3", "4 classes"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    tiny_splits: DataSplits, notation: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        train_candidate(Architecture.parse(notation), tiny_splits, SHORT, seed=0)
