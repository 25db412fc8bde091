"""The paper's tables: what is compared with what, and where the times come from."""

from __future__ import annotations

import pytest

from tests.report.runs import make_latency
from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import Cost
from tvm_mnas.paper.checkpoints import CheckpointAccuracy
from tvm_mnas.paper.tables import PaperRow, comparison_rows, provenance
from tvm_mnas.workflows.compare import ModelTiming

ROWS = [
    PaperRow(
        key=key,
        name=key.upper(),
        cost=Cost(parameters=100, mult_adds=1000),
        parameters=None if key == "b" else 80,
        mult_adds=1000,
        accuracy_percent=70.0,
        latency_ms=published_ms,
    )
    for key, published_ms in (("a", 50.0), ("b", 100.0), ("c", None))
]


def _timed(*times_ms: float | None) -> list[ModelTiming]:
    return [
        ModelTiming(name=row.key, failure="gone")
        if time_ms is None
        else ModelTiming(name=row.key, latencies=(make_latency(time_ms),), kernels=2, schedules=16)
        for row, time_ms in zip(ROWS, times_ms, strict=True)
    ]


def test_only_relative_latencies_are_compared() -> None:
    first, second, third = comparison_rows(ROWS, _timed(4.0, 6.0, 8.0), accuracies={}, baseline="a")
    assert (first.relative, first.published_relative, first.agreement) == (1, 1, 1)
    assert (second.relative, second.published_relative) == (1.5, 2.0)
    assert second.agreement == 0.75
    assert third.relative == 2.0
    assert third.published_relative is third.agreement is None
    assert first.parameters_ratio == 1.25
    assert second.parameters_ratio is None


def test_without_its_baseline_a_time_has_nothing_to_be_relative_to() -> None:
    rows = comparison_rows(ROWS, _timed(None, 6.0, 8.0), accuracies={}, baseline="a")
    assert [row.relative for row in rows] == [None, None, None]
    assert [row.latency_ms for row in rows] == [None, 6.0, 8.0]
    assert comparison_rows(ROWS, [], accuracies={}, baseline="a")[1].published_relative == 2.0


def test_an_accuracy_goes_to_the_network_that_it_is_of() -> None:
    accuracy = CheckpointAccuracy(file="b.safetensors", data="embedded", top1=0.25, samples=8)
    rows = comparison_rows(ROWS, [], accuracies={"b": accuracy}, baseline="a")
    assert [row.accuracy_percent for row in rows] == [None, 25.0, None]
    assert [row.published_accuracy_percent for row in rows] == [70.0] * 3
    assert rows[1].to_json()["checkpoint"] == accuracy.to_json()


def test_times_of_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 networks must have 3 times, not 1"):
        comparison_rows(ROWS, _timed(1.0, 2.0, 3.0)[:1], accuracies={}, baseline="a")


def test_a_doubtful_time_is_called_that() -> None:
    calm = ModelTiming(name="a", latencies=(make_latency(4.0),), kernels=2, schedules=16)
    assert "UNSTABLE DEVICE" not in provenance([calm])
    assert "8 schedules a kernel; 0 of 1 measurements above a spread of 5%" in provenance([calm])
    slowed = ModelTiming(
        name="b", latencies=(make_latency(4.0, reference_change=0.5), make_latency(4.0))
    )
    assert provenance([calm, slowed]).endswith(
        "; 1 UNSTABLE DEVICE, the first since the device's reference kernel takes 50.0% longer than before"
    )
    assert provenance([ModelTiming(name="a", failure="gone")]) == "nothing was timed"


def test_how_far_the_rounds_of_a_network_lie_apart_is_told() -> None:
    def timed(*times_ms: float) -> ModelTiming:
        return ModelTiming(name="a", latencies=tuple(make_latency(time_ms) for time_ms in times_ms))

    assert "; one round, " in provenance([timed(4.0), timed(5.0)])
    assert "; median of 3 rounds in turn (a network's lie 25% apart, 50% at most), " in provenance(
        [timed(4.0, 4.0, 5.0), timed(2.0, 3.0, 2.0), timed(7.0, 7.0, 7.0)]
    )
