"""What a toolchain adds up from the records, and which records it has."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.records import layered as layers
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning import build_workers as workers
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.devices.farm import farm
from tvm_mnas.evaluation import toolchain as module
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_toolchain


def test_kernels_count_as_often_as_they_are_called_and_one_without_record_makes_no_sum() -> None:
    best_us = {"a": 10.0, "b": 2.5}
    absent: Any = None
    store: Any = SimpleNamespace(best_us=best_us.get)
    options = ToolchainOptions(records=Path("records"), schedules_per_kernel=8, seed=0)
    toolchain = Toolchain(absent, absent, store, absent, options, Path("objects"))

    def network(**calls: int) -> Any:
        return SimpleNamespace(
            kernels=[SimpleNamespace(key=key, calls=count) for key, count in calls.items()]
        )

    assert toolchain.kernels_us(network(a=3, b=2)) == 35.0
    assert toolchain.kernels_us(network(a=3, c=1)) is None


@pytest.mark.parametrize(("with_shipped", "known"), [(True, 3.0), (False, None)])
def test_records_that_ship_lie_below_unless_a_comparison_begins_with_none(
    with_shipped: bool, known: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = replace(load_profile("local"), key="board", target=TARGET)
    kernel = make_kernel(1)
    shipped = RecordStore.open(
        tmp_path / "shipped" / layers.store_name(profile.key, TARGET), target=TARGET
    )
    add(shipped, kernel, [make_record(3e-6)], budget=8)
    monkeypatch.setattr(layers, "shipped_directory", lambda: tmp_path / "shipped")
    monkeypatch.setattr(module, "_reference", lambda *_: None)
    for place, name in ((farm, "open_farm"), (workers, "WarmBuilder")):
        monkeypatch.setattr(place, name, lambda *_, **__: contextlib.nullcontext())
    with open_toolchain(
        profile,
        ToolchainOptions(
            records=tmp_path / "mine",
            schedules_per_kernel=8,
            seed=0,
            with_shipped=with_shipped,
        ),
        logs=tmp_path,
        scratch=tmp_path,
    ) as opened:
        assert opened.store.best_us(kernel.key) == known


@pytest.mark.parametrize(("flops", "runs"), [(1_000_000, 1), (20_000_000_000, 0)])
def test_a_large_network_is_rehearsed_without_running_it(
    flops: int, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent: Any = None
    options = ToolchainOptions(records=tmp_path, schedules_per_kernel=8, seed=0)
    profile = replace(load_profile("local"), target=TARGET)
    toolchain = Toolchain(profile, absent, absent, absent, options, tmp_path)
    built: list[Path] = []

    def build(lowered: object, store: object, path: Path) -> Any:
        built.append(path)
        return SimpleNamespace(path=path)

    checked: list[object] = []
    monkeypatch.setattr("tvm_mnas.compiler.build.artifact.compile_rehearsal", build)
    monkeypatch.setattr(Toolchain, "missing", lambda self, lowered: ["one"])
    monkeypatch.setattr(
        Toolchain, "check_network", lambda self, artifact, judge, seed: checked.append(artifact)
    )
    lowered: Any = SimpleNamespace(flops=flops)
    toolchain.rehearse(lowered, absent, tmp_path)
    assert (len(built), len(checked)) == (1, runs)
