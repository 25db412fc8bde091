"""What `tvm-mnas bench` says of a network, and `tvm-mnas search` of its accuracies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import make_accuracy, make_latency, make_run
from tvm_mnas.cores.precision import Dtype
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.report.text import bench_line, search_lines
from tvm_mnas.search.result import SearchResult
from tvm_mnas.workflows.bench import BenchResult, KernelTiming

KERNEL = KernelTiming(
    kernel="conv2d 1x8x8x8 1x1x8x8",
    key="0" * 16,
    times=2,
    tuned=True,
    best_us=20.0,
    share_percent=100.0,
    flops=1000,
    moved_bytes=1000,
    schedules=4,
)
RESULT = BenchResult(
    model="net.onnx",
    latency=make_latency(0.05),
    kernels=(KERNEL,),
    agreement=Agreement(judge="ONNX Runtime 1.32.0", images=3, difference=2e-6),
    peak=None,
    one_session=True,
)


def test_the_judge_is_named_with_how_near_the_outputs_are() -> None:
    assert "outputs within 2e-06 of ONNX Runtime 1.32.0's" in bench_line(RESULT)


def test_kernels_are_summed_beside_a_latency_of_their_own_session_alone() -> None:
    assert "the sum of its kernels by their records is 0.04 ms, 80% of it" in bench_line(RESULT)
    line = bench_line(replace(RESULT, one_session=False))
    assert "sum of its kernels by" not in line
    assert "0.04" not in line
    assert "timed in another session" in line


@pytest.mark.parametrize(
    ("accumulator", "told"),
    [("float16", "on local in float16 ("), ("float32", "on local in float16, sums in float32 (")],
)
def test_a_latency_in_half_precision_says_so_in_the_line_and_in_json(
    accumulator: Dtype, told: str
) -> None:
    assert "end to end on local (" in bench_line(RESULT)
    half = replace(
        RESULT, latency=replace(RESULT.latency, dtype="float16", accumulator=accumulator)
    )
    assert told in bench_line(half)
    values = half.to_json()
    assert (values["dtype"], values["accumulator"]) == ("float16", accumulator)
    assert RESULT.to_json()["dtype"] == "float32"


@pytest.mark.parametrize(("difference", "told"), [(0.001, False), (0.2, True)])
def test_a_search_says_how_much_its_accuracies_mean(difference: float, told: bool) -> None:
    records = [
        replace(record, replicate=make_accuracy(record.evaluation.accuracy.top1 - difference))
        if record.evaluation.accuracy is not None and record.number % 4 == 0
        else record
        for record in make_run(40)
    ]
    line = search_lines(SearchResult(Path("run"), tuple(records), None, None, None))[1]
    assert f"an accuracy's noise is {difference / 2**0.5:.2%} (" in line
    assert "rank correlation of" in line
    assert ("longer training" in line) == told


def test_a_search_without_second_trainings_says_nothing_of_noise() -> None:
    result = SearchResult(Path("run"), tuple(make_run(20)), None, None, None)
    assert result.summary()["accuracy_noise"] is None
    assert not any("noise" in line for line in search_lines(result))
