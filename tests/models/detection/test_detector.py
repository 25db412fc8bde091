"""A whole detector: raw predictions to learn by, boxes to use, and what is before suppression."""

from __future__ import annotations

import torch

from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.models.detection.detector import Decoded, Detector, rows_of
from tvm_mnas.models.detection.suppression import suppress
from tvm_mnas.models.zoo.ssdlite import Backbone, map_sizes
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import DetectorArchitecture

BACKBONE = "i64_c3_w1:stem8_s22:r1_k3_s22_e1_o8{skip}:r1_k3_s22_{op}_o16:head24:n2"


def detector(op: str = "e3", skip: str = "") -> Detector:
    architecture = Architecture.parse(BACKBONE.format(op=op, skip=skip))
    network = build_candidate(DetectorArchitecture(architecture), seed=0)
    assert isinstance(network, Detector)
    return network


def test_it_learns_by_raw_predictions_and_finds_boxes_in_eval_mode() -> None:
    network = detector()
    images = torch.randn(2, 3, 64, 64)
    offsets, logits = network(images)
    # 16, 8, 4, 2 and 1 pixels along a side: three anchors at the first, six at the others.
    anchors = 16 * 16 * 3 + (64 + 16 + 4 + 1) * 6
    assert (offsets.shape, logits.shape) == ((2, anchors, 4), (2, anchors, 3))
    network.eval()
    with torch.no_grad():
        detections = network(images)
        boxes, scores = Decoded(network)(images)
    # By scores in place of logits, which are the same but for rounding.
    expected = suppress(boxes, scores, network.rule)
    assert torch.allclose(detections[..., 4], expected[..., 4], atol=1e-6)
    assert (detections == expected).all(2).float().mean() > 0.9
    rows = rows_of(detections)
    assert [len(image) for image in rows] == (detections[..., 5] >= 0).sum(1).tolist()
    assert all(0 <= row[4] <= 1 for image in rows for row in image)


def test_hardly_an_anchor_begins_with_an_object() -> None:
    network = detector().eval()
    with torch.no_grad():
        _, scores = Decoded(network)(torch.zeros(1, 3, 64, 64))
    assert 0.005 < scores.median() < 0.02


def test_a_backbone_computes_what_the_classifier_does_before_its_classes() -> None:
    for op, skip in (("e3", ""), ("e1", ""), ("conv", ""), ("e3", "_max")):
        architecture = Architecture.parse(BACKBONE.format(op=op, skip=skip))
        classifier = build_candidate(architecture, seed=0).eval()
        backbone = Backbone(classifier).eval()  # type: ignore[arg-type]
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            fine, last = backbone(images)
            logits = classifier.classifier(last.mean((2, 3)))  # type: ignore[operator]
            assert torch.allclose(logits, classifier(images), atol=1e-5)
        assert (fine.shape[2], last.shape[2]) == map_sizes(architecture)[:2] == (16, 8)
        assert fine.shape[1] == (24 if op == "e3" else 8)


def test_no_anchor_is_a_weight() -> None:
    assert not [name for name in detector().state_dict() if "decoder" in name]
