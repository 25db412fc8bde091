"""The page's pictures show every candidate, the target, what is doubtful, and say so where there is nothing."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.report.runs import (
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.report.rows import pareto_rows
from tvm_mnas.report.trials import measured
from tvm_mnas.report.web.charts import (
    costs_svg,
    entropy_svg,
    histogram_svg,
    pareto_svg,
    progress_svg,
)
from tvm_mnas.search.reward import Reward

REWARD = Reward.soft(0.06)


def marks(svg: str, css_class: str) -> list[ElementTree.Element]:
    """The marks of a picture which have a class."""
    root = ElementTree.fromstring(svg)
    return [one for one in root.iter() if css_class in one.attrib.get("class", "").split()]


def words(svg: str) -> str:
    """All text of a picture."""
    return " ".join("".join(one.itertext()) for one in ElementTree.fromstring(svg).iter("text"))


def test_every_measured_candidate_is_a_dot_and_the_front_is_marked() -> None:
    records = make_run(40)
    svg = pareto_svg(records, REWARD, finalists={0, 1}, best=1)
    numbers = {mark.attrib["data-i"] for mark in marks(svg, "candidate")}
    assert numbers == {str(record.number) for record in measured(records)}
    front = {mark.attrib["data-i"] for mark in marks(svg, "on-front")}
    assert front == {str(row.trial) for row in pareto_rows(records)}
    assert len(marks(svg, "error")) == 2 * len(front)
    assert len(marks(svg, "ring")) == 2
    assert [mark.attrib["data-i"] for mark in marks(svg, "star")] == ["1"]
    assert "target 0.06 ms" in words(svg)


def test_better_is_higher_and_faster_is_further_left() -> None:
    a, b = sample_architectures(2)
    records = [
        make_success(0, a, 0.7, make_latency(0.05)),
        make_success(1, b, 0.9, make_latency(0.08)),
    ]
    dots = {
        mark.attrib["data-i"]: (float(mark.attrib["cx"]), float(mark.attrib["cy"]))
        for mark in marks(pareto_svg(records, REWARD), "candidate")
    }
    assert dots["0"][0] < dots["1"][0]
    assert dots["0"][1] > dots["1"][1]


def test_what_is_doubtful_looks_so() -> None:
    a, b, c, d = sample_architectures(4)
    records = [
        make_success(0, a, 0.7, make_latency(0.05, tuned_share=1.0)),
        make_success(1, b, 0.7, make_latency(0.06, spread=0.5, tuned_share=1.0)),
        make_success(2, c, 0.7, make_latency(0.07, reference_change=0.5, tuned_share=1.0)),
        make_success(3, d, 0.7, make_latency(0.08, tuned_share=0.9)),
    ]
    svg = pareto_svg(records, REWARD)
    assert {mark.attrib["data-i"] for mark in marks(svg, "doubtful")} == {"1", "2", "3"}


def test_an_emulator_s_times_are_called_so() -> None:
    assert "emulated: not a latency" in words(pareto_svg(make_run(5, emulated=True), REWARD))
    assert "emulated: not a latency" in words(histogram_svg(make_run(5, emulated=True), REWARD))


def test_the_histogram_counts_everyone_and_parts_at_the_target() -> None:
    records = make_run(60)
    svg = histogram_svg(records, REWARD)
    target = float(marks(svg, "target")[0].attrib["x1"])
    within, beyond = marks(svg, "within"), marks(svg, "beyond")
    counted = sum(int("".join(bar.itertext()).split()[0]) for bar in [*within, *beyond])
    assert counted == len(measured(records))
    assert all(float(b.attrib["x"]) + float(b.attrib["width"]) <= target + 0.1 for b in within)
    assert all(float(bar.attrib["x"]) >= target - 0.1 for bar in beyond)


def test_progress_has_every_trial_under_its_number() -> None:
    records = make_run(30)
    root = ElementTree.fromstring(progress_svg(records))
    drawn = {one.attrib["data-i"] for one in root.iter("circle")}
    assert drawn == {str(record.number) for record in records}
    assert len(marks(progress_svg(records), "failed")) == sum(r.reward is None for r in records)


def test_costs_are_bars_of_the_stages_that_took_time() -> None:
    svg = costs_svg(make_run(10))
    assert svg is not None
    assert len(marks(svg, "within")) == 4
    assert "training" in words(svg)
    assert costs_svg([]) is None


def test_pictures_of_nothing_say_so() -> None:
    for svg in (pareto_svg([], REWARD), histogram_svg([], REWARD)):
        assert "No candidate was measured yet." in words(svg)
    assert "No trial has a reward yet." in words(progress_svg([]))
    (architecture,) = sample_architectures(1)
    assert "No trial has a reward yet." in words(progress_svg([make_failure(0, architecture)]))
    assert entropy_svg([]) is None
