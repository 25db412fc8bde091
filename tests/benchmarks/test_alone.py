"""Candidates tuned alone: which ones, how both networks are timed, what is made of stock's sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.errors import BuildError

Script = Callable[[str], ModuleType]


def test_candidates_are_spread_over_the_list(script: Script) -> None:
    spread = script("alone").spread_evenly
    assert spread(range(100), 3) == [16, 50, 83]
    assert spread([4, 6, 9], 1) == [6]
    assert spread([4, 6], 3) == [4, 6]
    assert spread([4, 6], 0) == []
    assert spread([], 3) == []


def network(*keys: str) -> Any:
    kernels = tuple(SimpleNamespace(key=key, name=f"conv {key}") for key in keys)
    return SimpleNamespace(kernels=kernels, input_shape=(1, 3, 8, 8))


def test_a_sample_is_of_distinct_kernels_and_follows_from_the_seed(script: Script) -> None:
    sample = script("alone").sample_kernels
    networks = [network("a", "b", "c"), network("c", "b", "d", "e")]
    first, distinct = sample(networks, count=3, seed=1)
    assert distinct == 5
    assert len({kernel.key for kernel in first}) == 3
    assert [kernel.key for kernel in sample(networks[::-1], count=3, seed=1)[0]] == [
        kernel.key for kernel in first
    ]
    assert {tuple(k.key for k in sample(networks, count=3, seed=n)[0]) for n in range(9)} != {
        tuple(k.key for k in first)
    }
    assert len(sample(networks, count=9, seed=1)[0]) == 5


def test_a_machine_that_slows_down_does_not_favour_either_network(script: Script) -> None:
    taken: list[str] = []

    def measure(artifact: str) -> Any:
        taken.append(artifact)
        return SimpleNamespace(latency_ms=len(taken) * {"s": 2.0, "a": 1.0}[artifact])

    times_ms = script("alone").time_in_turn(
        SimpleNamespace(measure=measure),
        {"shared": "s", "alone": "a"},
        rounds=9,
        seed=0,
    )
    assert all(set(taken[at : at + 2]) == {"s", "a"} for at in range(0, 18, 2))
    one = script("alone").Alone(
        number=1, architecture="x", shared_ms=times_ms["shared"], alone_ms=times_ms["alone"]
    )
    assert one.ratio == pytest.approx(2, rel=0.15)


def test_a_network_that_does_not_build_from_the_shared_records_has_no_ratio(
    script: Script, tmp_path: Path
) -> None:
    alone = script("alone")

    def compile_badly(lowered: Any, path: Path) -> Any:
        if lowered.kernels[0].key == "bad":
            raise BuildError("a linker is there")
        return path

    toolchain = SimpleNamespace(
        compile=compile_badly, measure=lambda artifact: SimpleNamespace(latency_ms=3.0)
    )
    peers = alone.Peers()
    for number, key in ((1, "bad"), (5, "good")):
        peers.results[number] = alone.Alone(number=number, architecture=key, kernels=1)
        peers.lowered[number] = network(key)
        peers.artifacts[number] = tmp_path / "net.so"
    said: list[str] = []
    bad, good = alone.time_both(
        peers, toolchain, directory=tmp_path, rounds=2, seed=0, say=said.append
    )
    assert (bad.ratio, bad.failure) == (None, "a linker is there")
    assert (good.ratio, good.failure) == (1.0, None)
    rows = alone.table([bad, good]).splitlines()[2:]
    assert rows[0] == "| 1 | 0 of 1 | 0.0 | - | - | - | a linker is there |"
    assert rows[1] == "| 5 | 0 of 1 | 0.0 | 3 | 3 | 1.000 | 2, 1.000 to 1.000 |"


def test_the_start_of_stock_is_counted_once_and_kernels_as_often_as_there_are(
    script: Script,
) -> None:
    side = script("stock_metaschedule").Side(16, 120.0, {"kernel-0": None}, start_s=20.0)
    sample = script("alone").describe_stock(side, names=["a", "b"], distinct=50, networks=[30, 40])
    assert sample.per_kernel_s == pytest.approx(50)
    assert sample.per_candidate_s == pytest.approx(20 + 50 * 35)
    assert sample.ran == 1


def test_a_stock_process_that_dies_leaves_a_reason(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = script("alone")

    def die(*_: Any, **__: Any) -> Any:
        raise SystemExit("stock MetaSchedule ended with 1: no space left")

    monkeypatch.setattr(alone, "run_stock", die)
    peers = alone.Peers(lowered={3: network("a")})
    values = {"count": 1, "directory": tmp_path, "trials": 1, "seed": 0}
    assert alone.sample_stock(peers, "{}", **values).endswith("no space left")
    assert "no candidate" in alone.sample_stock(alone.Peers(), "{}", **values)
