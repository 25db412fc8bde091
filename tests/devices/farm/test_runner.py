"""MetaSchedule's runner: one misbehaving kernel costs its own schedule, the others get their times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
from tvm.s_tir.meta_schedule.arg_info import TensorInfo
from tvm.s_tir.meta_schedule.runner import RunnerInput

from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.runner import KernelRunner

ARGUMENTS = [("float32", (8, 8)), ("float32", (8, 8))]
QUICK = TimingSettings(repeat=2, number=1, min_repeat_ms=1, warmup=0, attempts=1)


def schedule(path: Path) -> RunnerInput:
    return RunnerInput(
        str(path), "llvm", [TensorInfo(dtype, list(shape)) for dtype, shape in ARGUMENTS]
    )


def test_each_bad_kernel_costs_its_own_trial_and_says_why(
    farm: Farm, kernels: dict[str, Path], tmp_path: Path
) -> None:
    reasons: list[str | None] = []
    runner = KernelRunner(farm, timing=QUICK, deadline_s=2, on_result=reasons.append)
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"this is no library")
    names = ["good", "crash", "good", "hang", "good", "error", "good", "broken", "missing", "good"]
    paths = {**kernels, "broken": broken, "missing": tmp_path / "missing.so"}
    results = [future.result() for future in runner.run([schedule(paths[name]) for name in names])]
    for name, result in zip(names, results, strict=True):
        if name == "good":
            assert result.error_msg is None
            assert len(result.run_secs) == QUICK.repeat
            assert all(float(seconds) > 0 for seconds in result.run_secs)
        else:
            assert result.run_secs is None
    first_words = {
        name: str(result.error_msg).partition(":")[0]
        for name, result in zip(names, results, strict=True)
        if name != "good"
    }
    assert first_words == {
        "crash": "crash",
        "hang": "timeout",
        "error": "error",
        "broken": "error",
        "missing": "error",
    }
    assert "the kernel says no" in str(results[names.index("error")].error_msg)
    assert reasons == [first_words.get(name) for name in names]


def test_run_returns_before_the_kernels_did_unless_told_otherwise(
    farm: Farm, kernels: dict[str, Path]
) -> None:
    (future,) = KernelRunner(farm, timing=QUICK).run([schedule(kernels["slow"])])
    assert not future.done()
    assert float(future.result().run_secs[0]) > 1
    assert future.done()
    (future,) = KernelRunner(farm, timing=QUICK, overlap=False).run([schedule(kernels["good"])])
    assert future.done()


def test_trials_share_one_session(
    farm: Farm,
    kernels: dict[str, Path],
    processes_of: Callable[[Path], list[psutil.Process]],
) -> None:
    """What keeps a trial cheap: a session is a process of the server, which takes longer to start than a trial."""
    runner = KernelRunner(farm, timing=QUICK)
    inputs = [schedule(kernels["good"])] * 20

    def run(count: int) -> set[psutil.Process]:
        results = [future.result() for future in runner.run(inputs[:count])]
        assert all(result.error_msg is None for result in results)
        return set(processes_of(farm._directory))

    before = run(2)
    assert len(before) == 5  # tracker, server, listener, session, worker
    assert run(20) == before
