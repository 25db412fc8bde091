"""What a workbench adds up from the records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tvm_mnas.search.workbench import Workbench


def test_kernels_count_as_often_as_they_are_called_and_one_without_record_makes_no_sum() -> None:
    best_us = {"a": 10.0, "b": 2.5}
    absent: Any = None
    store: Any = SimpleNamespace(best_us=best_us.get)
    workbench = Workbench(absent, absent, store, absent, 8, 0, Path("objects"))

    def network(**calls: int) -> Any:
        return SimpleNamespace(
            kernels=[SimpleNamespace(key=key, calls=count) for key, count in calls.items()]
        )

    assert workbench.kernels_us(network(a=3, b=2)) == 35.0
    assert workbench.kernels_us(network(a=3, c=1)) is None
