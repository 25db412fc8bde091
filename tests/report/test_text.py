"""The lines that sum a search up for a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.runs import make_latency, make_manifest, make_success, sample_architectures
from tvm_mnas.report.text import search_lines
from tvm_mnas.search.result import SearchResult


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.969, "(spread 2.0%, 3.1% of it in untuned kernels)"), (1.0, "(spread 2.0%)")],
)
@pytest.mark.parametrize("change", [0.01, 0.5])
def test_the_best_ones_latency_says_what_makes_it_doubtful(
    share: float, shown: str, change: float
) -> None:
    (architecture,) = sample_architectures(1)
    latency = make_latency(0.05, tuned_share=share, reference_change=change)
    record = make_success(0, architecture, 0.7, latency)
    manifest = make_manifest(architecture, latency)
    lines = search_lines(SearchResult(Path("run"), (record,), record, Path("run/best"), manifest))
    (line,) = (line for line in lines if "0.05 ms" in line)
    warning = ", UNSTABLE DEVICE: the device's reference kernel takes 50.0% longer than at first"
    assert line.endswith(f"{shown.removesuffix(')')}{warning if change > 0.1 else ''})")
