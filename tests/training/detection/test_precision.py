"""Mean average precision: all, none, and in between as pycocotools counts it."""

from __future__ import annotations

import pytest

from tvm_mnas.errors import UsageError
from tvm_mnas.training.detection.annotations import AnnotatedImage, DetectionSet, ObjectBox
from tvm_mnas.training.detection.precision import FoundObject, average_precision

SIDES = (20.0, 60.0, 120.0)
"""Of a small, a medium and a large object."""


def _data() -> DetectionSet:
    images = []
    for number in range(4):
        objects = tuple(
            ObjectBox(10 + 3 * number, 20, side, side, at % 2, side * side)
            for at, side in enumerate(SIDES)
        )
        images.append(AnnotatedImage(f"{number}.png", 200, 200, objects))
    return DetectionSet(("a", "b"), tuple(images))


def _all(data: DetectionSet, *, shift: float = 0.0) -> list[list[FoundObject]]:
    return [
        [
            FoundObject((one.left + shift, one.top, one.width, one.height), one.label, 0.9)
            for one in image.objects
        ]
        for image in data.images
    ]


def test_what_equals_the_truth_has_a_precision_of_one() -> None:
    found = average_precision(_data(), _all(_data()))
    assert found.overall == pytest.approx(1.0)
    assert (found.small, found.medium, found.large) == pytest.approx((1.0, 1.0, 1.0))


def test_nothing_has_a_precision_of_zero() -> None:
    found = average_precision(_data(), [[] for _ in range(4)])
    assert (found.overall, found.small, found.medium, found.large) == (0, 0, 0, 0)


def test_wrong_classes_have_a_precision_of_zero() -> None:
    wrong = [
        [FoundObject(one.box, 1 - one.label, one.score) for one in image] for image in _all(_data())
    ]
    assert average_precision(_data(), wrong).overall == pytest.approx(0.0)


def test_boxes_that_are_off_count_at_the_overlaps_that_they_reach() -> None:
    # Shifted by a fifth of the smallest side: an overlap of 16 / 24 there, of 56 / 64 and 116 / 124 elsewhere.
    found = average_precision(_data(), _all(_data(), shift=4.0))
    assert found.small == pytest.approx(4 / 10)
    assert found.medium == pytest.approx(8 / 10)
    assert found.large == pytest.approx(9 / 10)
    assert found.at_50 == pytest.approx(1.0)


def test_what_is_found_in_a_crowd_counts_for_nothing() -> None:
    crowd = ObjectBox(0, 0, 100, 100, 0, 1e4, crowd=True)
    one = ObjectBox(120, 120, 40, 40, 0, 1600.0)
    data = DetectionSet(("a",), (AnnotatedImage("a.png", 200, 200, (crowd, one)),))
    right = FoundObject((120, 120, 40, 40), 0, 0.8)
    inside = [FoundObject((10.0 * at, 10, 20, 20), 0, 0.9) for at in range(5)]
    assert average_precision(data, [[right, *inside]]).overall == pytest.approx(1.0)
    outside = FoundObject((10, 150, 20, 20), 0, 0.9)
    assert average_precision(data, [[right, outside]]).overall == pytest.approx(0.5)


def test_data_without_an_object_has_no_precision() -> None:
    data = DetectionSet(("a",), (AnnotatedImage("a.png", 10, 10),))
    assert average_precision(data, [[]]).overall is None


def test_a_list_for_each_image_is_asked_for() -> None:
    with pytest.raises(ValueError, match="4 images have as many lists, not 1"):
        average_precision(_data(), [[]])


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'tvm-mnas\[detection\]'"):
        average_precision(DetectionSet(("a",), ()), [])
