"""What a bench says of this machine's own speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas.evaluation.toolchain import ToolchainOptions
from tvm_mnas.workflows.bench import bench_model

NETWORK = "i32_c3_w1:stem8_s22:r1_k3_s22_e3_i8_o16:head32:n10"


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.mark.timed
def test_no_kernel_is_much_faster_than_the_peak_and_tuning_made_one_faster(tmp_path: Path) -> None:
    result = bench_model(
        NETWORK,
        ToolchainOptions(records=tmp_path / "records", schedules_per_kernel=2, seed=0),
        device="local",
        observer=Silent(),
        untuned=True,
    )
    assert result.peak is not None, result.peak_failure
    # A percentage far above a hundred would be a peak that is none.
    assert all(0 < (timing.limit_percent or 0) < 200 for timing in result.kernels)
    assert max(timing.speed_up or 0 for timing in result.kernels) > 1
