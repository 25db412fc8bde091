"""Networks timed in turn, one of which fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import make_latency
from tvm_mnas.compiler.build.artifact import CompiledArtifact
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import ConfigError, MeasurementError
from tvm_mnas.workflows import compare
from tvm_mnas.workflows.compare import ModelTiming, _Entrant, time_on_toolchain
from tvm_mnas.workflows.search import SilentObserver

ARTIFACT = CompiledArtifact(Path("net.so"), 3, 3, 24, 1.0, 1000, (1, 3, 8, 8), "float32")


def test_a_latency_is_the_median_of_the_rounds() -> None:
    latencies = tuple(make_latency(answer) for answer in (4.0, 9.0, 5.0))
    timed = _Entrant("one", ARTIFACT).timed(latencies)
    assert timed.latency_ms == 5.0
    assert timed.round_spread == 1.0
    assert timed.failure is None
    assert (timed.kernels, timed.schedules) == (3, 24)


def test_what_fails_in_one_round_has_no_latency() -> None:
    timed = _Entrant("one", ARTIFACT).timed(MeasurementError("its times are not finite"))
    assert timed.latency_ms is None
    assert timed.round_spread is None
    assert timed.failure == "measuring: its times are not finite"


def test_what_did_not_compile_is_never_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The others are, each row beside its own name."""
    ready = {
        "one": _Entrant("one", ARTIFACT),
        "two": _Entrant("two", None, failure="lowering: no such operator"),
        "three": _Entrant("three", replace(ARTIFACT, kernels=5, tuned_kernels=5)),
    }
    monkeypatch.setattr(compare, "_prepare", lambda model, *_: ready[model])
    asked: list[CompiledArtifact] = []

    class Turns:
        def measure_in_turn(
            self, artifacts: list[CompiledArtifact], *, rounds: int, on_progress: object
        ) -> list[tuple[Latency, ...]]:
            asked.extend(artifacts)
            return [(make_latency(float(artifact.kernels)),) * rounds for artifact in artifacts]

    rows = time_on_toolchain(
        Turns(),  # type: ignore[arg-type]
        list(ready),  # type: ignore[arg-type]
        tmp_path,
        seed=0,
        observer=SilentObserver(),
        rounds=2,
    )
    assert asked == [ready["one"].artifact, ready["three"].artifact]
    assert [row.latency_ms for row in rows] == [3.0, None, 5.0]
    assert rows[1] == ModelTiming(name="two", failure="lowering: no such operator")


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
