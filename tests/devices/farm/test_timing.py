"""Compiled networks on the device: outputs equal numpy's, latencies carry where they come from."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.target import Target

from tvm_mnas.devices.core.latency import Coverage, Latency
from tvm_mnas.devices.core.profile import TimingSettings, load_profile
from tvm_mnas.devices.farm.channel import WorkerReply
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.lease import Lease
from tvm_mnas.devices.farm.timing import NetworkFile, measure, measure_in_turn, run_network
from tvm_mnas.errors import DeviceLostError, MeasurementError

SHAPE = (1, 3, 16, 16)
TIMING = TimingSettings(repeat=5, number=1, min_repeat_ms=2, warmup=1, max_spread=1.0, attempts=1)


@I.ir_module
class Tripler:
    """Other results than `Doubler`'s from the same inputs."""

    @R.function
    def main(x: R.Tensor((1, 3, 16, 16), "float32")):
        with R.dataflow():
            doubled = R.add(x, x)
            tripled = R.add(doubled, x)
            R.output(tripled)
        return tripled


@I.ir_module
class Doubler:
    """Two outputs, one of them nested: what RPC handles badly by default."""

    @R.function
    def main(x: R.Tensor((1, 3, 16, 16), "float32")):
        with R.dataflow():
            doubled = R.add(x, x)
            positive = R.nn.relu(x)
            R.output(doubled, positive)
        return (doubled, (positive, x))


def _export(module: tvm.IRModule, path: Path) -> Path:
    target = Target(json.loads(load_profile("local").target))
    tvm.compile(module, target=target).export_library(str(path))
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(Doubler, tmp_path_factory.mktemp("network") / "net.so")


def test_outputs_over_rpc_equal_numpys_batch_by_batch(farm: Farm, network: Path) -> None:
    inputs = np.random.default_rng(1).standard_normal((3, *SHAPE[1:])).astype("float32")
    doubled, positive, same = run_network(network, inputs, farm, batch_size=1)
    np.testing.assert_array_equal(doubled, inputs * 2)
    np.testing.assert_array_equal(positive, np.maximum(inputs, 0))
    np.testing.assert_array_equal(same, inputs)


def test_a_network_that_took_anothers_name_is_the_one_that_runs(farm: Farm, tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    path = _export(Doubler, tmp_path / "net.so")
    for _ in range(2):
        doubled, *_ = run_network(path, inputs, farm)
        np.testing.assert_array_equal(doubled, inputs * 2)
    _export(Tripler, tmp_path / "new.so").replace(path)
    (tripled,) = run_network(path, inputs, farm)
    np.testing.assert_allclose(tripled, inputs * 3, rtol=1e-6)


def test_a_batch_size_that_does_not_divide_is_refused(farm: Farm, network: Path) -> None:
    inputs = np.zeros((3, *SHAPE[1:]), "float32")
    with pytest.raises(MeasurementError, match="batch_size must divide"):
        run_network(network, inputs, farm, batch_size=2)


def test_a_latency_says_how_and_where_it_was_measured(farm: Farm, network: Path) -> None:
    coverage = Coverage(kernels=2, tuned_kernels=1, schedules=64, tuned_share=0.5)
    started = time.monotonic()
    latency = measure(network, SHAPE, farm, coverage=coverage, timing=TIMING)
    took_ms = (time.monotonic() - started) * 1e3
    assert len(latency.samples_ms) == 5
    assert 0 < sum(latency.samples_ms) < took_ms
    assert latency.device_key == "local"
    assert not latency.emulated
    assert latency.fingerprint == farm.fingerprint().digest
    assert latency.tvm_version == tvm.__version__
    assert latency.coverage == coverage
    assert latency.tuned_share == 0.5
    assert Latency.from_json(latency.to_json()) == latency


def test_a_spread_beyond_the_bound_is_measured_again_and_then_flagged_or_refused(
    farm: Farm, network: Path
) -> None:
    strict = replace(TIMING, max_spread=1e-12, attempts=3)
    latency = measure(network, SHAPE, farm, timing=strict)
    assert latency.noisy
    assert latency.attempts == 3
    with pytest.raises(MeasurementError, match="max_spread"):
        measure(network, SHAPE, farm, timing=strict, when_noisy="raise")


def test_networks_in_turn_have_a_latency_of_each_round_and_what_fails_is_not_timed_again(
    farm: Farm, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: list[Lease] = []
    loaded: list[str] = []
    load = Lease.load_network

    def watched(lease: Lease, path: Path, *arguments: Any, **settings: Any) -> WorkerReply:
        loaded.append(path.name)
        if lease not in leases:
            leases.append(lease)
        return load(lease, path, *arguments, **settings)

    monkeypatch.setattr(Lease, "load_network", watched)
    other = _export(Tripler, tmp_path / "other.so")
    coverage = Coverage(kernels=3, tuned_kernels=3)
    done: list[tuple[int, int]] = []
    first, wrong, second = measure_in_turn(
        [
            NetworkFile(path=network, input_shape=SHAPE),
            NetworkFile(path=network, input_shape=(1, 3, 8, 8)),
            NetworkFile(path=other, input_shape=SHAPE, coverage=coverage),
        ],
        farm,
        rounds=2,
        on_progress=lambda *counts: done.append(counts),
    )
    assert isinstance(first, tuple) and isinstance(second, tuple)
    assert (len(first), len(second)) == (2, 2)
    assert {latency.coverage for latency in second} == {coverage}
    assert isinstance(wrong, MeasurementError)
    assert loaded == ["net.so", "net.so", "other.so", "net.so", "other.so"]
    assert len(leases) == 1
    assert done == [(turn, 6) for turn in range(7)]
    assert measure_in_turn([], farm, rounds=2) == []


def test_a_wrong_shape_and_a_wrong_file_are_measurement_errors(
    farm: Farm, network: Path, kernels: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError, match=r"net\.so"):
        measure(network, (1, 3, 8, 8), farm, timing=TIMING)
    with pytest.raises(MeasurementError, match=r"good\.so"):
        measure(kernels["good"], SHAPE, farm, timing=TIMING)
    with pytest.raises(MeasurementError, match=r"nothing\.so"):
        measure(tmp_path / "nothing.so", SHAPE, farm, timing=TIMING)


def test_a_deadline_ends_a_network_that_takes_too_long(farm: Farm, network: Path) -> None:
    endless = replace(TIMING, repeat=10_000, min_repeat_ms=100)
    with pytest.raises(DeviceLostError, match=r"hung .* no answer within"):
        measure(network, SHAPE, farm, timing=endless, deadline_s=1)
    assert measure(network, SHAPE, farm, timing=TIMING).latency_ms > 0
