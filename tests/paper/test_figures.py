"""The rows and pictures of the paper's figures."""

from __future__ import annotations

import pytest

from tests.report.runs import REWARD, make_latency, make_run
from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import count_cost
from tvm_mnas.paper.figures import (
    ScaledPoint,
    figure4_points,
    figure6_points,
    objective_rows,
    scale_or_search_figure,
    scaled_rows,
    scaling_figure,
    search_row,
    searches_figure,
)
from tvm_mnas.report.drawing import render_png
from tvm_mnas.report.trials import measured, pareto_records
from tvm_mnas.search.reward import Reward
from tvm_mnas.workflows.compare import ModelTiming
from tvm_mnas.workflows.model_ref import resolve_architecture


def test_the_objectives_meet_at_the_target() -> None:
    rows = {row["latency_ms"]: row for row in objective_rows()}
    assert rows[80.0] == {"latency_ms": 80.0, "hard": 0.5, "soft": 0.5}
    assert rows[40.0]["hard"] == 0.5
    assert rows[160.0]["hard"] == pytest.approx(0.25)
    assert rows[160.0]["soft"] == pytest.approx(0.5 * 2**-0.07)


def test_figure_4_has_each_scaled_network_once() -> None:
    points = figure4_points()
    assert len({point.model for point in points}) == len(points) == 18
    sourced = [point for point in points if point.top1_percent is not None]
    assert {point.network for point in sourced} == {"mobilenet-v2"}
    assert len(sourced) == 9


def test_only_the_figures_networks_are_scaled() -> None:
    with pytest.raises(ConfigError, match="not 'resnet'"):
        ScaledPoint(network="resnet", multiplier=1.0, size=224)


@pytest.mark.parametrize("emulated", [False, True])
def test_a_failed_network_has_a_row_and_no_dot(emulated: bool) -> None:
    points = figure4_points()
    costs = [count_cost(resolve_architecture(point.model)) for point in points]
    timed = [ModelTiming(name=points[0].model, failure="tuning: gone")]
    timed += [
        ModelTiming(name=point.model, latencies=(make_latency(5.0 + i, emulated=emulated),))
        for i, point in enumerate(points[1:])
    ]
    rows = scaled_rows(points, costs, timed)
    assert rows[0].to_json()["failure"] == "tuning: gone"
    assert rows[0].parameters == pytest.approx(1.66e6, rel=0.02)
    figure = scaling_figure(rows, "phone")
    left, right = figure.axes
    assert [len(line.get_xdata()) for line in left.lines] == [4, 5]  # type: ignore[arg-type]
    assert [len(line.get_xdata()) for line in right.lines] == [5, 5]  # type: ignore[arg-type]
    assert (left.get_ylabel() == "latency (ms)") is not emulated
    assert render_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("emulated", [False, True])
def test_figure_5_has_a_column_for_each_run(emulated: bool) -> None:
    records = make_run(30, emulated=emulated)
    runs = [("hard", records, Reward.hard(0.06)), ("own", records, Reward(0.06, -0.1, -0.2))]
    figure = searches_figure(runs)
    assert len(figure.axes) == 4
    assert "alpha = -0.1, beta = -0.2" in figure.axes[1].get_title()
    assert ("not a latency" in figure.axes[0].get_title()) is emulated
    assert render_png(figure).startswith(b"\x89PNG")


def test_models_near_the_target_are_counted() -> None:
    records = make_run(30)
    row = search_row("run", records, REWARD)
    times = [r.evaluation.latency.latency_ms for r in measured(records) if r.evaluation.latency]
    assert row.measured == len(times)
    assert row.near_target == len([time for time in times if abs(time - 0.06) <= 0.006])
    assert 0 < row.near_target < len(times)
    assert row.pareto == len(pareto_records(records))


def test_figure_6_says_that_a_proxys_accuracy_is_not_imagenets() -> None:
    points = figure6_points()
    costs = [count_cost(resolve_architecture(point.model)) for point in points]
    timed = [ModelTiming(name=p.model, latencies=(make_latency(5.0),)) for p in points]
    rows = scaled_rows(points, costs, timed)
    (alone,) = scale_or_search_figure(rows, "phone").axes
    (both,) = scale_or_search_figure(rows, "phone", pareto_records(make_run(30))).axes
    labels = [axes.get_legend_handles_labels()[1] for axes in (alone, both)]
    assert [len(names) for names in labels] == [2, 3]
    assert "not ImageNet" in labels[1][-1]
