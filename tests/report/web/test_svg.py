"""Scales, axes and marks: in their places, readable, escaped."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from tvm_mnas.report.web.svg import Scale, plane, whole_ticks


def test_a_scale_maps_its_ends_to_the_picture_s() -> None:
    scale = Scale(10.0, 20.0, 58.0, 466.0)
    assert [scale(10.0), scale(15.0), scale(20.0)] == [58.0, 262.0, 466.0]
    logarithmic = Scale(1.0, 100.0, 0.0, 200.0, logarithmic=True)
    assert [logarithmic(value) for value in (1.0, 10.0, 100.0)] == pytest.approx([0, 100, 200])


def test_a_scale_holds_all_values_with_room() -> None:
    for values in ([3.0], [0.0], [0.0, 0.0], [-1.0, 5.0], [1e-6, 2e-6]):
        scale = Scale.over(values, 0.0, 100.0)
        assert scale.least < min(values) and max(values) < scale.most
        assert all(0 < scale(value) < 100 for value in values)
    assert Scale.over([], 0.0, 1.0) == Scale(0.0, 1.0, 0.0, 1.0)


def test_times_are_never_below_zero_and_logarithmic_where_they_span_much() -> None:
    assert Scale.over_times([0.01, 0.1], 0.0, 1.0).least >= 0.0
    assert not Scale.over_times([1.0, 19.0], 0.0, 1.0).logarithmic
    wide = Scale.over_times([0.1, 30.0], 0.0, 1.0)
    assert wide.logarithmic
    assert wide.ticks() == pytest.approx([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0])


@pytest.mark.parametrize("most", [0.013, 0.9, 7.0, 43.0, 12345.0])
def test_ticks_are_few_round_and_within(most: float) -> None:
    scale = Scale(0.0, most, 0.0, 1.0)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(0 <= tick <= most for tick in ticks)
    step = ticks[1] - ticks[0]
    assert step / 10 ** math.floor(math.log10(step)) == pytest.approx(
        min((1, 2, 2.5, 5, 10), key=lambda m: abs(m - step / 10 ** math.floor(math.log10(step))))
    )


def test_whole_ticks_are_whole() -> None:
    assert whole_ticks(Scale(0.0, 2.0, 0.0, 1.0)) == [0.0, 1.0, 2.0]


def test_a_drawing_is_one_svg_whose_texts_are_escaped() -> None:
    drawing = plane('<b> & "c"', [1.0, 2.0], [3.0, 4.0])
    drawing.axes("<x>", "y & z")
    drawing.dot(1.0, 3.0, "candidate", radius=3, index=7)
    drawing.star(2.0, 4.0, "star", radius=9, index=None)
    drawing.curve([(1.0, 3.0), (2.0, 4.0)], "front")
    drawing.bar(1, 1, -5, 2, "within", "<title>")
    root = ElementTree.fromstring(drawing.svg())
    assert root.attrib["aria-label"] == '<b> & "c"'
    texts = ["".join(one.itertext()) for one in root.iter("text")]
    assert {"<x>", "y & z"} <= set(texts)
    (circle,) = root.iter("circle")
    assert (circle.attrib["data-i"], circle.attrib["r"]) == ("7", "3")
    assert [one.attrib["width"] for one in root.iter("rect")] == ["0"]
    assert len(next(root.iter("polygon")).attrib["points"].split()) == 10
