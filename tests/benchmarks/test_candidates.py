"""Which candidates are drawn, and which of their costs are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.errors import MeasurementError

Script = Callable[[str], ModuleType]


def test_candidates_are_different_of_the_size_asked_for_and_follow_from_the_seed(
    script: Script,
) -> None:
    draw = script("candidates").draw
    first = draw("mnasnet", candidates=5, size=96, seed=1)
    assert len({one.id for one in first}) == 5
    assert {one.input_size for one in first} == {96}
    assert first == draw("mnasnet", candidates=5, size=96, seed=1)
    assert first != draw("mnasnet", candidates=5, size=96, seed=2)


def test_the_table_tells_the_first_from_the_last(script: Script) -> None:
    candidates = script("candidates")
    costs = [
        candidates.Cost("a", 40, 20 - number, 0, 20.0 - number, 1.0, 1.0) for number in range(20)
    ]
    rows = candidates.table(costs).splitlines()[2:]
    assert rows == [
        "| first 10 | 15.5 | 15.5 | 1.0 | 16.5 |",
        "| last 10 | 5.5 | 5.5 | 1.0 | 6.5 |",
        "| all | 10.5 | 10.5 | 1.0 | 11.5 |",
    ]


def test_a_candidate_that_fails_costs_what_it_took_and_has_no_latency(
    script: Script, tmp_path: Path
) -> None:
    candidates = script("candidates")
    (architecture,) = candidates.draw("quickstart", candidates=1, size=32, seed=0)
    kernel = SimpleNamespace(key="k")

    def fail(artifact: Any, shape: Any) -> Any:
        raise MeasurementError("a time is above 0 s")

    workbench = SimpleNamespace(
        lower=lambda network, shape: SimpleNamespace(kernels=(kernel,)),
        tune=lambda networks, on_progress: SimpleNamespace(
            kernels=(SimpleNamespace(trials=7),), duration_s=0.0
        ),
        compile=lambda lowered, path: None,
        measure=fail,
    )
    cost, keys = candidates.evaluate(architecture, workbench, tmp_path / "x.so")
    assert (cost.kernels, cost.tuned, cost.schedules, cost.latency_ms) == (1, 1, 7, None)
    assert cost.failure == "a time is above 0 s"
    assert keys == {"k"}
    assert cost.other_s > 0


def test_a_space_that_is_not_there_is_said_so(script: Script) -> None:
    from tvm_mnas.errors import TvmMnasError

    with pytest.raises(TvmMnasError, match="nowhere"):
        script("candidates").draw("nowhere", candidates=1, size=32, seed=0)
