"""Networks timed in turn, one of which fails."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.report.runs import make_latency
from tvm_mnas.compiler.build.artifact import CompiledArtifact
from tvm_mnas.errors import ConfigError, MeasurementError
from tvm_mnas.workflows.compare import ModelTiming, _Entrant

ARTIFACT = CompiledArtifact(Path("net.so"), 3, 3, 24, 1.0, 1000, (1, 3, 8, 8), "float32")


@dataclass
class Bench:
    """A toolchain that answers these times in turn; None is a measurement that fails."""

    answers: list[float | None]
    measured: list[CompiledArtifact] = field(default_factory=list)

    def measure(self, artifact: CompiledArtifact) -> object:
        self.measured.append(artifact)
        answer = self.answers.pop(0)
        if answer is None:
            raise MeasurementError("its times are not finite")
        return make_latency(answer)


def test_a_latency_is_the_median_of_the_rounds() -> None:
    bench = Bench([4.0, 9.0, 5.0])
    entrant = _Entrant("one", ARTIFACT)
    for _ in range(3):
        entrant.time(bench)  # type: ignore[arg-type]
    timed = entrant.result()
    assert timed.latency_ms == 5.0
    assert timed.round_spread == 1.0
    assert timed.failure is None
    assert (timed.kernels, timed.schedules) == (3, 24)
    assert bench.measured == [ARTIFACT] * 3


def test_what_fails_in_one_round_has_no_latency_and_is_not_timed_again() -> None:
    bench = Bench([4.0, None])
    entrant = _Entrant("one", ARTIFACT)
    for _ in range(3):
        entrant.time(bench)  # type: ignore[arg-type]
    timed = entrant.result()
    assert timed.latency_ms is None
    assert timed.round_spread is None
    assert timed.failure == "measuring: its times are not finite"
    assert len(bench.measured) == 2


def test_what_did_not_compile_is_never_timed() -> None:
    bench = Bench([])
    entrant = _Entrant("one", None, failure="lowering: no such operator")
    entrant.time(bench)  # type: ignore[arg-type]
    assert entrant.result() == ModelTiming(name="one", failure="lowering: no such operator")


def test_json_has_every_sample() -> None:
    latency = make_latency(2.0)
    timed = ModelTiming(name="one", latencies=(latency, replace(latency)), kernels=1, schedules=8)
    values = timed.to_json()
    assert values["latency_ms"] == 2.0
    assert values["round_spread"] == 0.0
    assert [entry["samples_ms"] for entry in values["latencies"]] == [list(latency.samples_ms)] * 2
    assert values["emulated"] == latency.emulated


@pytest.mark.parametrize("failure", [None, "tuning: gone"])
def test_a_result_is_a_latency_or_a_failure(failure: str | None) -> None:
    latencies = () if failure is None else (make_latency(2.0),)
    with pytest.raises(ConfigError, match="latencies or a failure"):
        ModelTiming(name="one", latencies=latencies, failure=failure)
