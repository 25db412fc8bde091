"""What `tvm-mnas bench` says of a network."""

from __future__ import annotations

from dataclasses import replace

from tests.report.runs import make_latency
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.report.text import bench_line
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
