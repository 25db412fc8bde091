"""Detectors in the loop: what they learn by, how they are judged, and what is no data for them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tvm_mnas.errors import DataError
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.models.detection.coding import corners
from tvm_mnas.models.detection.detector import Detector
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import DataSplits
from tvm_mnas.training.detection.augmentation import Augmentation
from tvm_mnas.training.detection.drawn import DrawnImages
from tvm_mnas.training.detection.losses import FocalLoss
from tvm_mnas.training.detection.splits import DetectionSplit, detection_splits
from tvm_mnas.training.detection.task import Detection, DetectionLoss
from tvm_mnas.training.loop import train_candidate
from tvm_mnas.training.processes import SINGLE, ProcessGroup
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.tasks import Classification, task_of

TINY = parse_candidate("ssdlite+i64_c3_w1:stem8_s22:r1_k3_s22_e1_o8:r1_k3_s22_e3_o16:head16:n3")
RECIPE = Recipe(steps=3, batch_size=4, expansion=1.0, crops=False, colour=0.0, batch_norm_decay=0.9)


def splits_of(count: int = 8) -> DataSplits:
    stores = [DrawnImages(count, seed) for seed in range(3)]
    options = LoadOptions(input_size=64, workers=0)
    return detection_splits([(one, one.annotations) for one in stores], options, name="few")


def detector() -> Detector:
    network = build_candidate(TINY, seed=0)
    assert isinstance(network, Detector)
    return network


class Oracle(Detector):
    """A detector that knows what is in each image, in the order of an evaluation."""

    def __init__(self, split: DetectionSplit, *, off: float = 0.0) -> None:
        told = detector()
        super().__init__(told.network, told.decoder, told.rule)
        self.images = iter(split.data.images)
        self.off = off

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(len(images), self.rule.total, 6)
        rows[..., 5] = -1
        for row in rows:
            image = next(self.images)
            for place, one in enumerate(image.objects):
                sides = (one.left, one.top, one.left + one.width, one.top + one.height)
                row[place, :4] = torch.tensor(sides) / image.width + self.off
                row[place, 4:] = torch.tensor([0.9, float(one.label)])
        return rows


def test_who_finds_what_is_there_has_a_precision_of_one_and_who_finds_nothing_of_none() -> None:
    splits = splits_of(30)
    assert isinstance(splits.test, DetectionSplit)
    score = Detection().evaluate(Oracle(splits.test), splits.test, splits.normalization)
    assert (score.metric, score.samples, score.value) == ("mAP", 30, pytest.approx(1.0))
    ends = ("", "_50", "_75", "_small", "_medium", "_large")
    assert set(score.measures) == {f"map{end}" for end in ends}
    assert all(value == pytest.approx(1.0) for value in score.measures.values())
    # Sixteen pixels to the right and below: what is small is missed, what is large is found by half.
    moved = Oracle(splits.test, off=0.1)
    worse = Detection().evaluate(moved, splits.test, splits.normalization)
    assert worse.measures["map_small"] == 0 < worse.value < worse.measures["map_large"] < 0.9


def test_the_loss_falls_as_it_learns_and_a_training_repeats_itself() -> None:
    splits = splits_of()
    once = train_candidate(TINY, splits, replace(RECIPE, steps=12), seed=1)
    again = train_candidate(TINY, splits, replace(RECIPE, steps=12), seed=1)
    assert once.accuracy.metric == "mAP"
    first = train_candidate(TINY, splits, replace(RECIPE, steps=1), seed=1).accuracy.train_loss
    assert once.accuracy.train_loss < first
    states = once.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("class_loss", ["hard-negative", "focal"])
def test_perfect_predictions_cost_next_to_nothing(class_loss: str) -> None:
    network = detector()
    recipe = replace(RECIPE, class_loss=class_loss)
    loss = Detection().loss(network, recipe, SINGLE)
    assert isinstance(loss, DetectionLoss)
    assert isinstance(loss.classes, FocalLoss) == (class_loss == "focal")
    anchors = network.decoder.anchors
    # Two objects where an anchor lies, and the same class everywhere else: none.
    chosen = [100, 400]
    objects = torch.full((1, 3, 6), -1.0)
    for place, anchor in enumerate(chosen):
        objects[0, place] = torch.tensor([*corners(anchors[anchor]).tolist(), 1.0, 0.0])
    logits = torch.full((1, len(anchors), 4), -20.0)
    labels, wanted = loss._targets(objects, logits)
    for anchor in (labels[0] > 0).nonzero().flatten():
        logits[0, anchor, 2] = 20.0
    assert {int(anchor) for anchor in (labels[0] > 0).nonzero()} >= set(chosen)
    assert loss((wanted, logits), objects).item() < 1e-6
    assert loss((wanted + 1.0, logits), objects).item() > 1.0
    assert loss((wanted, -logits), objects).item() > 1.0


def test_an_image_without_an_object_and_one_with_a_crowd_have_a_loss() -> None:
    network = detector()
    loss = Detection().loss(network, RECIPE, SINGLE)
    objects = torch.tensor([[[-1.0] * 6], [[0.0, 0.0, 1.0, 1.0, 2.0, 1.0]]])
    value = loss(network(torch.randn(2, 3, 64, 64)), objects)
    assert math.isfinite(value.item()) and value.item() > 0


class _Halved(ProcessGroup):
    """One of two processes whose other has no object at all."""

    def mean(self, loss: torch.Tensor) -> float:
        return float(loss) / 2


def test_processes_divide_by_the_objects_of_all() -> None:
    network = detector()
    predictions = network(torch.randn(2, 3, 64, 64))
    objects = torch.tensor([[[0.1, 0.1, 0.6, 0.6, 1.0, 0.0]], [[0.5, 0.2, 0.9, 0.4, 0.0, 0.0]]])
    alone = Detection().loss(network, RECIPE, SINGLE)(predictions, objects)
    # Gradients are averaged afterwards: half of twice as much.
    beside = Detection().loss(network, RECIPE, _Halved(size=2))(predictions, objects)
    assert beside.item() == pytest.approx(2 * alone.item(), rel=1e-5)


def test_a_recipe_says_how_images_are_changed() -> None:
    recipe = replace(RECIPE, expansion=2.0, crops=True, colour=0.25)
    split = Detection().train_split(splits_of().train, recipe)
    assert isinstance(split, DetectionSplit)
    assert split.augmentation == Augmentation(expansion=2.0, crops=True, colour=0.25)


def test_boxes_are_for_detectors_and_classes_for_classifiers() -> None:
    assert isinstance(task_of(TINY), Detection)
    labels = load_data("embedded", LoadOptions(input_size=32))
    small = parse_candidate("ssdlite+i32_c3_w1:stem8_s22:r1_k3_s22_e1_o8:head16:n10")
    with pytest.raises(DataError, match="embedded has none; take coco:PATH"):
        task_of(small).check_fit(small, labels)
    classifier = parse_candidate(TINY.notation.removeprefix("ssdlite+"))
    assert isinstance(task_of(classifier), Classification)
    with pytest.raises(DataError, match=r"few has boxes, and the network is a classifier"):
        task_of(classifier).check_fit(classifier, splits_of())
    fewer = parse_candidate(TINY.notation.replace(":n3", ":n2"))
    with pytest.raises(DataError, match="3 classes, but the network tells only 2"):
        task_of(fewer).check_fit(fewer, splits_of())
