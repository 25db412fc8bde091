"""A network with a kernel of which no schedule ran: refused, or let in with its share told, on this machine's farm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_mnas.compiler.build.coverage import untuned_kernels
from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.records.formats import FAILED_S
from tvm_mnas.compiler.records.layered import store_name
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.devices.core.profile import DeviceProfile, load_profile
from tvm_mnas.errors import ConfigError, DeviceError, UntunedKernelError
from tvm_mnas.evaluation import toolchain as module
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_toolchain
from tvm_mnas.models.network import Network, build_network
from tvm_mnas.report.text import bench_line
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.workflows.bench import BenchResult, bench_model

NETWORK = "i16_c3_w1:stem8_s22:r1_k3_s22_e3_i8_o16:head32:n10"
SHAPE = (1, 3, 16, 16)


@dataclass(frozen=True)
class Place:
    """Where the records lie; those of one kernel, the pooling, all failed."""

    directory: Path
    profile: DeviceProfile
    network: Network
    lowered: LoweredNetwork
    pool: Kernel

    @property
    def records(self) -> Path:
        return self.directory / "records"


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    # Under a name of its own, for which no records ship.
    profile = replace(load_profile("local"), key="unshipped")
    network = build_network(Architecture.parse(NETWORK), seed=0).eval()
    lowered = lower_network(network, SHAPE, profile.target)
    pool = next(kernel for kernel in lowered.kernels if "pool" in kernel.name)
    directory = tmp_path_factory.mktemp("toolchain")
    (directory / "unshipped.toml").write_text(profile.to_toml())
    store = RecordStore.open(
        directory / "records" / store_name(profile.key, profile.target), target=profile.target
    )
    failed = json.dumps([[["trace"]], [FAILED_S], json.loads(profile.target), []])
    store.add(pool, [failed], budget=2, failures={"crash": 1}, duration_s=1.0)
    return Place(directory, profile, network, lowered, pool)


@pytest.fixture(scope="module")
def toolchain(place: Place) -> Iterator[Toolchain]:
    """Yield a toolchain that refuses untuned kernels; all but the pooling are tuned."""
    with open_toolchain(
        place.profile,
        ToolchainOptions(
            records=place.records,
            schedules_per_kernel=2,
            seed=0,
        ),
        logs=place.directory,
        scratch=place.directory,
    ) as opened:
        opened.tune([place.lowered], on_progress=lambda done, total: None)
        yield opened


def allowing(toolchain: Toolchain, share: float) -> Toolchain:
    options = replace(toolchain.options, max_untuned_share=share)
    return replace(toolchain, options=options, _untuned_us={})


def test_by_default_it_is_refused_and_nothing_is_timed_for_it(
    place: Place, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert untuned_kernels(place.lowered.kernels, toolchain.store) == [place.pool]
    monkeypatch.setattr(module, "measure_untuned", lambda *_, **__: pytest.fail("nobody asked"))
    with pytest.raises(UntunedKernelError, match=place.pool.key):
        toolchain.compile(place.lowered, tmp_path / "net.so")


def test_by_choice_its_measured_time_is_the_share_that_the_latency_tells(
    place: Place, toolchain: Toolchain, tmp_path: Path
) -> None:
    allowed = allowing(toolchain, 0.99)
    artifact = allowed.compile(place.lowered, tmp_path / "net.so")
    ((key, time_us),) = allowed.untuned_us(place.lowered).items()
    assert key == place.pool.key
    assert 0 < time_us < 1e4
    tuned_us = sum(
        (toolchain.store.best_us(kernel.key) or 0.0) * kernel.calls
        for kernel in place.lowered.kernels
    )
    expected = tuned_us / (tuned_us + time_us * place.pool.calls)
    assert artifact.tuned_share == pytest.approx(expected, rel=1e-12)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    assert (
        allowed.check(artifact, torch_judge(place.network, batch_size=1), images).difference < 1e-4
    )
    latency = allowed.measure(artifact)
    assert latency.tuned_share == artifact.tuned_share
    assert 0 < latency.tuned_share < 1
    assert latency.coverage.tuned_kernels == latency.coverage.kernels - 1
    assert latency.untuned_flag is not None


def test_above_the_limit_it_is_refused(
    place: Place, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_untuned", lambda *_, **__: 1e6)
    with pytest.raises(UntunedKernelError, match=f"at most 5%.*{place.pool.key}.*tvm-mnas tune"):
        allowing(toolchain, 0.05).compile(place.lowered, tmp_path / "net.so")
    assert not (tmp_path / "net.so").exists()


def test_a_kernel_is_timed_once_for_all_networks(
    place: Place, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def measure(kernel: Kernel, directory: Path, **_: object) -> float | None:
        assert directory.is_dir()
        timed.append(kernel.key)
        return None

    monkeypatch.setattr(module, "measure_untuned", measure)
    allowed = allowing(toolchain, 0.5)
    for name in ("one.so", "two.so"):
        with pytest.raises(UntunedKernelError, match="could not be timed"):
            allowed.compile(place.lowered, tmp_path / name)
    assert timed == [place.pool.key]


def test_a_device_that_was_gone_is_asked_again(
    place: Place, toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> float | None:
        raise DeviceError("no-device: gone")

    allowed = allowing(toolchain, 0.5)
    monkeypatch.setattr(module, "measure_untuned", gone)
    with pytest.raises(DeviceError, match="gone"):
        allowed.untuned_us(place.lowered)
    monkeypatch.setattr(module, "measure_untuned", lambda *_, **__: 3.0)
    assert allowed.untuned_us(place.lowered) == {place.pool.key: 3.0}


@pytest.mark.parametrize("share", [-0.01, 1.0, 5.0, float("nan")])
def test_a_limit_that_is_none_is_refused(toolchain: Toolchain, share: float) -> None:
    with pytest.raises(ConfigError, match="max_untuned_share"):
        allowing(toolchain, share)


def bench(place: Place, max_untuned_share: float, *, untuned: bool = False) -> BenchResult:
    return bench_model(
        NETWORK,
        ToolchainOptions(
            records=place.records,
            schedules_per_kernel=2,
            seed=0,
            max_untuned_share=max_untuned_share,
        ),
        device=str(place.directory / "unshipped.toml"),
        observer=Silent(),
        untuned=untuned,
    )


def test_a_bench_shows_which_kernel_is_untuned_and_how_much_of_the_time_it_is(
    place: Place, toolchain: Toolchain
) -> None:
    with pytest.raises(UntunedKernelError, match=place.pool.key):
        bench(place, 0.0)
    result = bench(place, 0.99, untuned=True)
    (untuned,) = (timing for timing in result.kernels if not timing.tuned)
    assert untuned.key == place.pool.key
    assert result.latency.untuned_flag is not None
    assert untuned.untuned_us == untuned.best_us
    assert untuned.speed_up is None
    assert all((timing.speed_up or 0) > 0 for timing in result.kernels if timing.tuned)
    assert f"), {result.latency.untuned_flag};" in bench_line(result)
    moved = replace(result, latency=replace(result.latency, reference_change=0.9))
    assert "; UNSTABLE DEVICE: the device's reference kernel takes 90.0% longer" in bench_line(
        moved
    )
    # Its kernels were tuned before, for all tests here: a sum beside the latency is for those of one session.
    assert "untuned, their own times" not in bench_line(result)
    assert "untuned, their own times" in bench_line(replace(result, one_session=True))
    share = result.latency.tuned_share
    assert share is not None
    assert untuned.share_percent == pytest.approx(100 * (1 - share))
    assert result.to_json()["latency"]["coverage"]["tuned_share"] == share
