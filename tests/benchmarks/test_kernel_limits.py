"""The share of the limit: which kernels are of which kind, means weighted by time, and what was before."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]

NAMES = {
    "conv2d_add_relu 1x7x7x192 1x1x192x1152": "pointwise",
    "conv2d_add_relu 1x14x14x480 5x5x1x480": "depthwise",
    "conv2d_add_relu 1x3x224x224 3x3x3x32": "other",
    "conv2d_add_relu_conv2d_add 1x112x112x32 3x3x1x32 1x1x32x16": "several in one",
    "conv2d_add_relu_mean_matmul_add 1x7x7x320 1x1x320x1280 1280x1000": "several in one",
    "matmul_add 1x1280 1280x1000": "other",
    "adaptive_avg_pool2d 1x7x7x1280 1x1x1x1280": "other",
}


def test_a_kernel_is_known_by_its_weights(script: Script) -> None:
    limits = script("kernel_limits")
    assert {name: limits.Row(name, 1, 1.0, 1.0).kind for name in NAMES} == NAMES


def test_the_mean_is_weighted_by_the_time_of_all_calls(script: Script) -> None:
    limits = script("kernel_limits")
    pointwise, depthwise, *_ = NAMES
    rows = [limits.Row(pointwise, 3, 10.0, 5.0), limits.Row(pointwise, 1, 10.0, 10.0)]
    assert limits.share(rows, "pointwise") == pytest.approx((3 * 5 + 10) / 40)
    assert limits.share(rows, "depthwise") is None
    assert limits.share([limits.Row(depthwise, 1, 4.0, 5.0)], "depthwise") == 1.25


def test_what_takes_longest_comes_first_beside_what_it_was(script: Script) -> None:
    limits = script("kernel_limits")
    pointwise, depthwise, *_ = NAMES
    rows = [limits.Row(depthwise, 1, 8.0, 6.0), limits.Row(pointwise, 4, 10.0, 9.0)]
    before = {pointwise: limits.Row(pointwise, 4, 18.0, 9.0)}
    lines = limits.table(rows, before).splitlines()
    assert lines[2] == f"| {pointwise} | 4 | 10.0 | 90% | 50% |"
    assert lines[3] == f"| {depthwise} | 1 | 8.0 | 75% | - |"
    assert lines[4] == "| **pointwise, by time** | | | **90.0%** | 50.0% |"
    assert lines[5] == "| **depthwise, by time** | | | **75.0%** | - |"
    assert lines[6] == "| **all, ms** | | 0.048 | | 0.072 |"
    assert len(lines) == 7


def test_code_is_held_to_the_core_that_is_named(script: Script) -> None:
    profile = script("kernel_limits").profile_of("haswell")
    assert '"mcpu": "haswell"' in profile.target
    assert profile.key == "local-haswell"
