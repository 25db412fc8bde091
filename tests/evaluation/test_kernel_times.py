"""The kernels of an export on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.kernel_times import KernelFacts, read_kernels, write_kernels

KERNEL = KernelFacts(name="conv", key="k", calls=2, tuned_us=3.0, untuned_us=None, limit_us=2.5)


def test_kernels_round_trip(tmp_path: Path) -> None:
    write_kernels(tmp_path / "kernels.json", [KERNEL])
    assert read_kernels(tmp_path / "kernels.json") == (KERNEL,)


def test_what_is_no_time_is_refused(tmp_path: Path) -> None:
    for name in ("tuned_us", "untuned_us", "limit_us", "calls"):
        write_kernels(tmp_path / "kernels.json", [KERNEL])
        values = json.loads((tmp_path / "kernels.json").read_text())
        values["kernels"][0][name] = 0
        (tmp_path / "kernels.json").write_text(json.dumps(values))
        with pytest.raises(RunError, match="above 0 us"):
            read_kernels(tmp_path / "kernels.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1, "kernels": [{}]}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "kernels.json").write_text(text)
    with pytest.raises(RunError, match="export the network again"):
        read_kernels(tmp_path / "kernels.json")


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text('{"schema": 2}')
    with pytest.raises(RunError, match="format 1 can be read, not 2"):
        read_kernels(tmp_path / "kernels.json")
