"""Which candidates are drawn, and which of their costs are shown."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.errors import MeasurementError
from tvm_mnas.space.architecture import Architecture

Script = Callable[[str], ModuleType]

TINY = (
    "i8_c3_w1:stem8_s22:r1_k3_s22_e1_i8_o8:head8:n4",
    "i8_c3_w1:stem8_s22:r1_k5_s22_e1_i8_o8:head8:n4",
)


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
    rows = script("costs").table(costs).splitlines()[2:]
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
    lowered = SimpleNamespace(kernels=(SimpleNamespace(key="k"),), kernel_calls=3, moved_bytes=4096)

    def fail(artifact: Any) -> Any:
        raise MeasurementError("a time is above 0 s")

    toolchain = SimpleNamespace(
        lower=lambda network, shape: lowered,
        tune=lambda networks, on_progress: SimpleNamespace(
            kernels=(SimpleNamespace(schedules=7),), duration_s=0.0
        ),
        kernels_us=lambda lowered: 12.0,
        compile=lambda lowered, path: None,
        measure=fail,
    )
    cost, keys = candidates.evaluate(architecture, toolchain, tmp_path / "x.so")
    assert (cost.kernels, cost.tuned, cost.schedules, cost.latency_ms) == (1, 1, 7, None)
    assert (cost.kernels_us, cost.calls, cost.moved_bytes) == (12.0, 3, 4096)
    assert cost.failure == "a time is above 0 s"
    assert keys == {"k"}
    assert cost.other_s > 0


def test_candidates_are_timed_again_but_for_those_that_failed(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = script("candidates")
    architectures = candidates.draw("quickstart", candidates=3, size=32, seed=0)
    costs = costs_of(script, 3)
    costs[1] = replace(costs[1], latency_ms=None, failure="none ran")

    def time_in_rounds(compiled: Any, farm: object, **options: Any) -> dict[int, float]:
        assert {key: path.name for key, (path, _) in compiled.items()} == {0: "1.so", 2: "3.so"}
        assert compiled[0][1] == (1, 3, 32, 32)
        return {2: 6.0}

    monkeypatch.setattr(candidates, "time_in_rounds", time_in_rounds)
    toolchain = SimpleNamespace(farm=None)
    again = candidates.time_again(costs, architectures, toolchain, tmp_path, rounds=3, seed=0)
    assert [cost.latency_ms for cost in again] == [costs[0].latency_ms, None, 6.0]


def costs_of(script: Script, count: int, **values: Any) -> list[Any]:
    """Return costs of candidates with 1.2 x kernels + 0.01 ms x calls + 0.005 ms x megabytes + 0.5 ms exactly."""
    generator = random.Random(7)
    costs = []
    for number in range(count):
        kernels_us, calls = generator.uniform(5e3, 2e4), generator.randrange(20, 60)
        moved_bytes = generator.randrange(10**7, 10**8)
        latency_ms = 1.2 * kernels_us / 1e3 + 0.01 * calls + 0.005 * moved_bytes / 1e6 + 0.5
        one = script("costs").Cost(
            str(number), 40, 10, 80, 30.0, 5.0, latency_ms, None, kernels_us, calls, moved_bytes
        )
        costs.append(replace(one, **values))
    return costs


def test_the_predictor_is_tried_on_candidates_that_it_was_not_fitted_on(script: Script) -> None:
    costs = costs_of(script, 20)
    # Those that are held out take twice as long as the others foretell: half of the truth is 50% off.
    costs = [
        replace(cost, latency_ms=cost.latency_ms * (1 + at % 2)) for at, cost in enumerate(costs)
    ]
    found = script("candidates").predict(costs)
    assert (found.fitted_on, found.held_out) == (10, 10)
    assert found.kernels_factor == pytest.approx(1.2)
    assert found.call_ms == pytest.approx(0.01)
    assert found.megabyte_ms == pytest.approx(0.005)
    assert found.network_ms == pytest.approx(0.5)
    assert found.mape == pytest.approx(0.5)
    assert found.spearman == pytest.approx(1)


def test_candidates_that_failed_are_no_part_of_the_prediction(script: Script) -> None:
    predict = script("candidates").predict
    costs = costs_of(script, 12)
    failed = costs_of(script, 3, latency_ms=None, failure="none ran")
    assert predict([*failed, *costs]) == predict(costs)
    assert "not 3" in predict(costs[:6])
    assert "not 0" in predict(failed)


def test_stock_is_compared_by_tuning_and_by_the_whole_way(script: Script) -> None:
    costs = script("costs")
    first = costs_of(script, 10, tuning_s=90.0, other_s=10.0)
    last = costs_of(script, 10, tuned=0, tuning_s=0.01, other_s=10.0)
    ratios = costs.stock_ratios([*first, *last], 990.0)
    assert ratios["first 10"] == {"tuning": pytest.approx(11), "in all": pytest.approx(10)}
    assert ratios["last 10"] == {"tuning": None, "in all": pytest.approx(1000 / 10.01)}
    assert ratios["all"]["tuning"] == pytest.approx(990 / 45.005)


def result_of(script: Script, **values: Any) -> Any:
    costs, alone = script("costs"), script("alone")
    cost_list = costs_of(script, 12)
    parts = {
        "setting": "12 candidates of nothing",
        "costs": cost_list,
        "distinct": 100,
        "found": 0,
        "prediction": costs.predict(cost_list),
        "alone": [
            alone.Alone(number=2, architecture="a", shared_ms=(2.0, 2.0), alone_ms=(2.0, 2.0)),
            alone.Alone(number=7, architecture="b", shared_ms=(2.2, 2.2), alone_ms=(2.0, 2.0)),
            alone.Alone(number=9, architecture="c", failure="none ran"),
        ],
        "stock": alone.StockSample(
            kernels=("conv2d 1x1",),
            distinct=50,
            networks=(30, 40),
            schedules=8,
            start_s=20.0,
            kernels_s=60.0,
            ran=1,
        ),
    }
    return costs.Result(**{**parts, **values})


def test_everything_is_told_in_words_and_as_json(script: Script) -> None:
    result = result_of(script)
    text = result.text()
    assert "kernels in all 480, distinct 100, tuned 120 with 960 schedules; 0 candidates" in text
    assert "the latencies of 0 spread beyond" in text
    assert "1 of 3 from shared records are no more than 5% slower" in text
    assert "extrapolated to the 35.0 kernels of a candidate: 2120 s each" in text
    assert "| all | 70.7 | 60.7 |" in text
    assert "skipped" not in text
    document = json.loads(json.dumps(result.to_json()))
    assert document["skipped"] == {}
    assert len(document["candidates"]) == 12
    assert document["prediction"]["held_out"] == 6
    assert [one["ratio"] for one in document["alone"]] == [1.0, pytest.approx(1.1), None]
    assert document["stock"]["extrapolated_per_candidate_s"] == pytest.approx(2120)
    assert document["stock_ratios"]["all"]["in all"] == pytest.approx(2125 / 35)


def test_what_was_skipped_is_said_and_why(script: Script) -> None:
    result = result_of(script, prediction="too few", alone="--alone is 0", stock="it died")
    for words in ("skipped; too few", "skipped; --alone is 0", "skipped; it died"):
        assert words in result.text()
    document = result.to_json()
    assert document["skipped"] == {
        "prediction": "too few",
        "alone": "--alone is 0",
        "stock": "it died",
        "stock_ratios": "it died",
    }
    assert document["stock"] is None and document["stock_ratios"] is None


def test_kernels_that_were_found_tuned_make_no_ratio_to_stock(script: Script) -> None:
    result = result_of(script, found=30)
    assert "30 of the distinct kernels were found tuned" in result.text()
    assert "ratio to ours: skipped; 30 kernels were found tuned" in result.text()
    assert result.to_json()["stock_ratios"] is None
    assert result.to_json()["stock"]["ran"] == 1


def run_tiny(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: Any, *flags: str
) -> dict[str, Any]:
    tiny = [
        "--space",
        "quickstart",
        "--size",
        "32",
        "--schedules-per-kernel",
        "2",
        "--rounds",
        "2",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["candidates.py", *tiny, *flags])
    candidates = script("candidates")
    drawn = [Architecture.parse(notation) for notation in TINY]
    # Those of a space have five times as many kernels.
    monkeypatch.setattr(candidates, "draw", lambda *_, candidates, **__: drawn[:candidates])
    assert candidates.main() == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.slow
def test_a_run_ends_with_everything_and_a_second_one_says_that_it_found_records(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    flags = ("--candidates", "2", "--stock", "0", "--records", str(tmp_path / "records"))
    first = run_tiny(script, monkeypatch, capsys, *flags, "--alone", "1")
    assert [one["failure"] for one in first["candidates"]] == [None, None]
    assert all(one["kernels_us"] > 0 and one["calls"] > 0 for one in first["candidates"])
    assert first["found_tuned"] == 0
    assert 0 < first["distinct_kernels"] == first["tuned_kernels"] < first["kernels"]
    (alone,) = first["alone"]
    assert (
        alone["tuned"] == alone["kernels"] == first["candidates"][alone["candidate"] - 1]["kernels"]
    )
    assert len(alone["shared_ms"]) == len(alone["alone_ms"]) == 2
    assert alone["ratio"] > 0
    assert set(first["skipped"]) == {"prediction", "stock", "stock_ratios"}
    second = run_tiny(script, monkeypatch, capsys, *flags, "--alone", "0")
    assert second["tuned_kernels"] == 0
    assert second["found_tuned"] == second["distinct_kernels"] == first["distinct_kernels"]
    assert [one["kernels_us"] for one in second["candidates"]] == [
        one["kernels_us"] for one in first["candidates"]
    ]


@pytest.mark.slow
@pytest.mark.timed
def test_stock_is_run_on_a_sample_and_extrapolated(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    flags = ("--candidates", "1", "--alone", "1", "--stock", "1")
    document = run_tiny(script, monkeypatch, capsys, *flags)
    stock = document["stock"]
    assert len(stock["kernels"]) == 1
    assert stock["distinct_kernels"] == document["distinct_kernels"]
    assert stock["start_s"] > 0 and stock["kernels_s"] > 0
    assert document["stock_ratios"]["all"]["tuning"] > 1


def test_a_space_that_is_not_there_is_said_so(script: Script) -> None:
    from tvm_mnas.errors import TvmMnasError

    with pytest.raises(TvmMnasError, match="nowhere"):
        script("candidates").draw("nowhere", candidates=1, size=32, seed=0)
