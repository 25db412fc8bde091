"""Detectors as candidates: their notation, their identity, and a space of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.detector import DetectorArchitecture, DetectorSpace
from tvm_mnas.space.files import load_space

BACKBONE = Architecture.parse("i64_c3_w1:stem8_s22:r1_k3_s22_e3_o16:head24:n5")


def test_its_notation_reads_back_to_an_equal_one() -> None:
    detector = DetectorArchitecture(BACKBONE)
    assert detector.notation == f"ssdlite+{BACKBONE.notation}"
    assert parse_candidate(f" {detector.notation} ") == detector
    assert str(detector) == detector.notation
    assert (detector.image_shape, detector.classes) == ((1, 3, 64, 64), 5)


def test_it_is_no_other_network() -> None:
    detector = DetectorArchitecture(BACKBONE)
    others = {
        BACKBONE.id,
        DetectorArchitecture(replace(BACKBONE, head_filters=32)).id,
        detector.of_classes(6).id,
    }
    assert len(others | {detector.id}) == 4
    assert DetectorArchitecture(BACKBONE).id == detector.id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssdlite+nonsense", "nonsense"),
        ("ssdlite+i64_c3_w1:stem8_s22:r1_k3_s11_e3_o16:head24:n5", "last layer of stride 2"),
    ],
)
def test_what_is_no_detector_is_told(text: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        parse_candidate(text)


def test_a_notation_without_its_prefix_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"begins with ssdlite\+"):
        DetectorArchitecture.parse(BACKBONE.notation)


def test_a_space_of_detectors_has_the_decisions_of_its_backbones() -> None:
    backbones = load_space("drawn-160")
    space = DetectorSpace(backbones, classes=7)
    assert (space.name, space.size) == ("drawn-160", backbones.size)
    assert space.decisions == backbones.decisions
    tokens = space.sample(random.Random(3))
    detector = space.decode(tokens)
    assert detector.classes == 7
    assert replace(detector.backbone, classes=backbones.classes) == backbones.decode(tokens)
    assert space.decode(space.encode(detector)) == detector
    assert len({space.fingerprint, backbones.fingerprint, DetectorSpace(backbones, 8).fingerprint}) == 3  # fmt: skip
