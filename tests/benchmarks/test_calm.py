"""Networks timed in rounds: each once a round, in other orders, and the calm rounds count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.farm import timing as device_timing
from tvm_mnas.errors import DeviceLostError

Script = Callable[[str], ModuleType]


def test_each_round_times_all_once_and_the_calm_rounds_count(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = script("calm")
    times_ms: dict[str, list[float | None]] = {
        "a": [4.0, 1.0, 3.0, 2.0, 5.0],
        "b": [7.0, None, 7.0, 7.0, 7.0],
        "c": [None] * 5,
    }
    asked: list[str] = []

    def measure(
        path: Path, shape: Sequence[int], farm: object, *, timing: TimingSettings
    ) -> SimpleNamespace:
        assert (timing.repeat, timing.attempts, timing.warmup) == (calm.REPEAT, 1, 9)
        assert tuple(shape) == (1, 3, 8, 8)
        asked.append(path.name)
        time_ms = times_ms[path.name].pop(0)
        if time_ms is None:
            raise DeviceLostError("gone")
        return SimpleNamespace(latency_ms=time_ms)

    monkeypatch.setattr(device_timing, "measure", measure)
    told: list[str] = []
    found = calm.time_in_rounds(
        {name: (Path(name), (1, 3, 8, 8)) for name in times_ms},
        SimpleNamespace(profile=SimpleNamespace(timing=TimingSettings(warmup=9))),
        rounds=5,
        seed=0,
        say=told.append,
    )
    # A round that fails is left out, and so is a network all of whose rounds did.
    assert found == {"a": 2.0, "b": 7.0}
    rounds = [tuple(asked[at : at + 3]) for at in range(0, 15, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 1
    assert told[-1] == "timed, round 5 of 5"


def test_no_rounds_are_no_latencies(script: Script) -> None:
    calm = script("calm")
    farm = SimpleNamespace(profile=SimpleNamespace(timing=TimingSettings()))
    networks = {"a": (Path("a"), (1, 3, 8, 8))}
    assert calm.time_in_rounds(networks, farm, rounds=0, seed=0, say=print) == {}
