"""Who builds while another core measures, on machines with few cores and in containers with quotas."""

from __future__ import annotations

import pytest

from tvm_mnas.evaluation.cores import CorePlan, plan_cores


@pytest.mark.parametrize(
    ("cores", "most", "measuring", "expected"),
    [
        ((0, 1, 2, 3), 4, 3, CorePlan((0, 1, 2), (3,), True)),
        ((0, 1, 2, 3), 4, 1, CorePlan((0, 2, 3), (1,), True)),
        # A quota of two: one builds, one measures.
        ((0, 1, 2, 3), 2, 3, CorePlan((0,), (3,), True)),
        # A quota of one: what builds would stop what measures, whatever their cores.
        ((0, 1, 2, 3), 1, 3, CorePlan((0,), (), False)),
        ((0,), 1, 0, CorePlan((0,), (), False)),
        # Another machine measures, or nobody knows on which core.
        ((0, 1, 2, 3), 4, None, CorePlan((0, 1, 2, 3), (), True)),
        ((0, 1, 2, 3), 2, None, CorePlan((0, 1), (), True)),
        ((4, 5), 1, None, CorePlan((4,), (), True)),
    ],
)
def test_cores_are_shared_between_builders_and_what_measures(
    cores: tuple[int, ...], most: int, measuring: int | None, expected: CorePlan
) -> None:
    assert plan_cores(cores, most=most, measuring=measuring) == expected
