"""Mixed candidates, and stores cut to the first schedules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.errors import UntunedKernelError

Script = Callable[[str], ModuleType]


def test_mixed_candidates_have_the_blocks_of_their_parents(script: Script) -> None:
    parents = script("candidates").draw("mnasnet", candidates=3, size=96, seed=0)
    mixed = script("fidelity").mix(parents, candidates=20, seed=1)
    assert len({architecture.id for architecture in mixed}) == 20
    for architecture in mixed:
        assert architecture.input_size == 96
        choices = zip(*(parent.blocks for parent in parents), strict=True)
        assert all(
            block in options for block, options in zip(architecture.blocks, choices, strict=True)
        )
    assert mixed == script("fidelity").mix(parents, candidates=20, seed=1)


def test_mixing_ends_where_there_are_no_more_mixtures(script: Script) -> None:
    (parent,) = script("candidates").draw("mnasnet", candidates=1, size=96, seed=0)
    assert script("fidelity").mix([parent, parent], candidates=3, seed=0) == [parent]


def test_the_table_compares_candidates_that_have_both_latencies(script: Script) -> None:
    fidelity = script("fidelity")
    text = fidelity.table(
        {
            "8": [3.0, 2.0, 5.0, None],
            "16": [None, None, 2.0, None],
            "128": [1.0, 2.0, 2.5, 4.0],
            fidelity.FULL_AGAIN: [1.0, 2.0, 2.5, 4.0],
        },
        "128",
    )
    assert text.splitlines()[2:] == [
        "| 8 | 3 | 0.500 | 2.000 |",
        "| 16 | 1 | - | - |",
        "| full, again | 4 | 1.000 | 1.000 |",
    ]


def test_a_store_is_cut_to_the_first_schedules_and_not_the_best(
    script: Script, tmp_path: Path
) -> None:
    import torch

    from tvm_mnas.compiler.lowering.lower import lower_network
    from tvm_mnas.compiler.records.store import RecordStore

    fidelity = script("fidelity")
    target = json.dumps({"kind": "llvm", "num-cores": 1})
    lowered = lower_network(torch.nn.Conv2d(3, 8, 1), (1, 3, 4, 4), target)
    (kernel,) = [one for one in lowered.kernels if one.name.startswith("conv2d")]
    store = RecordStore.open(tmp_path / "full", target=target)
    times_s = [5e-6, 3e-6, 4e-6, 1e-6]
    records = [json.dumps([[[], []], [time_s], {"kind": "llvm"}, []]) for time_s in times_s]
    store.add(kernel, records, budget=4, failures={}, duration_s=1.0)
    cut = fidelity.truncate(store, [kernel], tmp_path / "cut", 3)
    assert [json.loads(record) for record in cut.records_of(kernel.key)] == [
        json.loads(record) for record in records[:3]
    ]
    assert cut.best_us(kernel.key) == pytest.approx(3)
    assert store.best_us(kernel.key) == pytest.approx(1)
    assert cut.missing([kernel], schedules_per_kernel=3) == []


def test_networks_are_timed_by_budget_and_one_without_schedules_has_no_latency(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fidelity = script("fidelity")

    def compile_untuned(lowered: Any, path: Path) -> Any:
        raise UntunedKernelError("none ran")

    def time_in_rounds(compiled: Any, farm: object, **options: Any) -> dict[Any, float]:
        assert (farm, options["rounds"], options["seed"]) == ("farm", 5, 3)
        assert compiled == {
            (0, "full, again"): (tmp_path / "0-full-again.so", (1, 3, 8, 8)),
            (1, "full, again"): (tmp_path / "1-full-again.so", (1, 3, 9, 9)),
        }
        return {(1, "full, again"): 2.0}

    monkeypatch.setattr(fidelity, "time_in_rounds", time_in_rounds)
    found = fidelity.measure(
        {
            "8": SimpleNamespace(compile=compile_untuned, farm="farm"),
            "full, again": SimpleNamespace(compile=lambda lowered, path: path, farm="farm"),
        },
        [SimpleNamespace(input_shape=(1, 3, 8, 8)), SimpleNamespace(input_shape=(1, 3, 9, 9))],
        tmp_path,
        rounds=5,
        seed=3,
    )
    assert found == {"8": [None, None], "full, again": [None, 2.0]}
