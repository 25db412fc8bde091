"""The compiled network computes what torch computes, from records alone, wherever it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.compiler.conftest import SHAPE, FixedRunner, Mean, Tuned, small_network
from tests.compiler.elf import AARCH64, made_for
from tvm_mnas.compiler.build.artifact import CompiledArtifact, compile_network
from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning.build_workers import WarmBuilder
from tvm_mnas.compiler.tuning.tuner import TuningBudget, tune_kernels
from tvm_mnas.errors import BuildError, UntunedKernelError
from tvm_mnas.models.inference import predict

IMAGES = np.random.default_rng(0).standard_normal((4, *SHAPE[1:]), dtype=np.float32)

_RUN = """
import sys
sys.modules["torch"] = None
import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine
vm = VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
images = np.load(sys.argv[2])
outputs = [vm["main"](tvm.runtime.tensor(image[None])).numpy() for image in images]
np.save(sys.argv[3], np.concatenate(outputs))
"""


def _run(library: Path, directory: Path) -> np.ndarray:
    """Return the outputs for `IMAGES` of a fresh process that can import TVM's runtime and no torch."""
    np.save(directory / "images.npy", IMAGES)
    subprocess.run(
        [
            sys.executable,
            "-c",
            _RUN,
            library,
            directory / "images.npy",
            directory / "outputs.npy",
        ],
        check=True,
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "1", "PATH": ""},
        timeout=120,
    )
    return np.asarray(np.load(directory / "outputs.npy"))


@pytest.fixture(scope="module")
def artifact(
    lowered: LoweredNetwork, tuned: Tuned, tmp_path_factory: pytest.TempPathFactory
) -> CompiledArtifact:
    return compile_network(lowered, tuned.store, tmp_path_factory.mktemp("artifact") / "net.so")


def test_an_artifact_says_what_it_is(
    artifact: CompiledArtifact, lowered: LoweredNetwork, tuned: Tuned
) -> None:
    assert artifact.kernels == artifact.tuned_kernels == len(lowered.kernels)
    assert artifact.schedules == sum(kernel.schedules for kernel in tuned.report.kernels)
    assert artifact.tuned_share == 1.0
    assert artifact.size_bytes == artifact.path.stat().st_size > 0
    assert [path.name for path in artifact.path.parent.iterdir()] == ["net.so"]


def test_it_agrees_with_torch_in_a_process_without_it(
    artifact: CompiledArtifact, tmp_path: Path
) -> None:
    network = small_network()
    expected = predict(network, IMAGES)
    # The comparison would prove nothing if the output hardly depended on the input.
    assert float(np.ptp(expected, axis=0).max()) > 0.1
    outputs = _run(artifact.path, tmp_path)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected, rtol=0.0, atol=1e-4)


def test_other_weights_are_compiled_from_the_same_records(
    artifact: CompiledArtifact, tuned: Tuned, target: str, tmp_path: Path
) -> None:
    network = small_network(seed=9)
    other = compile_network(
        lower_network(network, SHAPE, target), tuned.store, tmp_path / "other.so"
    )
    outputs = _run(other.path, tmp_path)
    np.testing.assert_allclose(outputs, predict(network, IMAGES), rtol=0.0, atol=1e-4)
    assert np.abs(outputs - predict(small_network(), IMAGES)).max() > 0.1


def test_the_subset_of_its_records_compiles_the_same_network(
    artifact: CompiledArtifact, lowered: LoweredNetwork, tuned: Tuned, target: str, tmp_path: Path
) -> None:
    tuned.store.subset(lowered.kernels, tmp_path / "records")
    subset = RecordStore.open(tmp_path / "records", target=target)
    again = compile_network(lowered, subset, tmp_path / "net.so")
    assert again.size_bytes == artifact.size_bytes
    np.testing.assert_array_equal(_run(again.path, tmp_path), _run(artifact.path, tmp_path))


def test_a_record_made_in_one_network_fits_another(
    builder: WarmBuilder, target: str, tmp_path: Path
) -> None:
    """TVM names a reduction's block after what comes before it, and traces find blocks by name."""

    def head(depth: int) -> torch.nn.Module:
        torch.manual_seed(depth)
        layers = [torch.nn.Conv2d(8, 8, 1) for _ in range(depth)]
        return torch.nn.Sequential(*layers, Mean()).eval()

    shape = (1, 8, 6, 6)
    store = RecordStore.open(tmp_path / "records", target=target)
    runner = FixedRunner(lambda run: run * 1e-6)
    tuned = []
    # Inputs of the first layer and outputs of the last are not padded, so that a third one is like those between.
    for depth in (3, 5):
        lowered = lower_network(head(depth), shape, target)
        report = tune_kernels(
            lowered.kernels,
            store,
            target=target,
            builder=builder,
            runner=runner,
            budget=TuningBudget(schedules_per_kernel=2),
            seed=0,
        )
        tuned.append(report.kernels)
        artifact = compile_network(lowered, store, tmp_path / f"{depth}.so")
        assert artifact.tuned_kernels == len(lowered.kernels)
    assert any("mean" in kernel.name for kernel in tuned[0])
    assert tuned[1] == ()


def test_a_kernel_without_a_record_is_named_and_nothing_is_written(
    lowered: LoweredNetwork, tuned: Tuned, target: str, tmp_path: Path
) -> None:
    left_out = next(kernel for kernel in lowered.kernels if "conv2d" in kernel.name)
    others = [kernel for kernel in lowered.kernels if kernel is not left_out]
    tuned.store.subset(others, tmp_path / "records")
    store = RecordStore.open(tmp_path / "records", target=target)
    with pytest.raises(UntunedKernelError) as caught:
        compile_network(lowered, store, tmp_path / "net.so")
    assert left_out.name in str(caught.value)
    assert left_out.key in str(caught.value)
    assert not (tmp_path / "net.so").exists()


@pytest.fixture(scope="module")
def half_tuned(
    lowered: LoweredNetwork,
    tuned: Tuned,
    builder: WarmBuilder,
    target: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RecordStore, Kernel]:
    """Return records of the small network in which every schedule of one kernel, the mean, failed."""
    mean = next(kernel for kernel in lowered.kernels if kernel.name.startswith("mean"))
    others = [kernel for kernel in lowered.kernels if kernel is not mean]
    directory = tmp_path_factory.mktemp("half") / "records"
    tuned.store.subset(others, directory)
    store = RecordStore.open(directory, target=target)
    tune_kernels(
        [mean],
        store,
        target=target,
        builder=builder,
        runner=FixedRunner(lambda run: "crash: signal 11"),
        budget=TuningBudget(schedules_per_kernel=2),
        seed=0,
    )
    assert store.schedules(mean.key) == 2
    return store, mean


def test_a_kernel_of_which_nothing_ran_is_refused_by_default(
    lowered: LoweredNetwork, half_tuned: tuple[RecordStore, Kernel], tmp_path: Path
) -> None:
    store, mean = half_tuned
    with pytest.raises(UntunedKernelError, match=mean.key):
        compile_network(lowered, store, tmp_path / "net.so", untuned_us={mean.key: 1e-3})
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_may_stay_untuned_by_choice_and_its_share_is_told(
    lowered: LoweredNetwork, half_tuned: tuple[RecordStore, Kernel], tmp_path: Path
) -> None:
    store, mean = half_tuned
    tuned_us = sum(
        (store.best_us(kernel.key) or 0.0) * kernel.calls
        for kernel in lowered.kernels
        if kernel is not mean
    )
    artifact = compile_network(
        lowered,
        store,
        tmp_path / "net.so",
        untuned_us={mean.key: tuned_us / 19 / mean.calls},
        max_untuned_share=0.06,
    )
    assert artifact.tuned_share == pytest.approx(0.95, rel=1e-12)
    assert artifact.tuned_kernels == artifact.kernels - 1 == len(lowered.kernels) - 1
    expected = predict(small_network(), IMAGES)
    outputs = _run(artifact.path, tmp_path)
    np.testing.assert_allclose(outputs, expected, rtol=0.0, atol=1e-4)


def test_above_the_limit_nothing_is_written(
    lowered: LoweredNetwork, half_tuned: tuple[RecordStore, Kernel], tmp_path: Path
) -> None:
    store, mean = half_tuned
    with pytest.raises(UntunedKernelError, match=f"at most 6%.*{mean.key}"):
        compile_network(
            lowered,
            store,
            tmp_path / "net.so",
            untuned_us={mean.key: 1e6},
            max_untuned_share=0.06,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_choice_does_not_cover_a_record_of_other_code(
    lowered: LoweredNetwork,
    half_tuned: tuple[RecordStore, Kernel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, mean = half_tuned
    other = next(k for k in lowered.kernels if k.name.startswith("matmul"))
    wrong = store.best_record(next(k for k in lowered.kernels if "conv2d" in k.name).key)
    kept = store.best_record
    monkeypatch.setattr(store, "best_record", lambda key: wrong if key == other.key else kept(key))
    with pytest.raises(BuildError, match="matmul.*delete the tuning records"):
        compile_network(
            lowered,
            store,
            tmp_path / "net.so",
            untuned_us={mean.key: 1e-3},
            max_untuned_share=0.9,
        )


def test_a_linker_that_fails_leaves_the_library_that_was_there(
    lowered: LoweredNetwork,
    tuned: Tuned,
    tmp_path: Path,
    script_linker: Callable[[str], Linker],
) -> None:
    path = tmp_path / "out" / "net.so"
    path.parent.mkdir()
    path.write_bytes(b"before")
    with pytest.raises(BuildError, match="disk is full") as caught:
        compile_network(
            lowered, tuned.store, path, linker=script_linker("echo disk is full >&2; exit 1")
        )
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"before"
    assert [item.name for item in path.parent.iterdir()] == ["net.so"]


def test_a_network_for_another_machine_is_compiled_here(
    core: int, tmp_path: Path, script_linker: Callable[[str], Linker]
) -> None:
    target = json.dumps(
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 1}
    )
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU())
    lowered = lower_network(network.eval(), (1, 3, 8, 8), target)
    store = RecordStore.open(tmp_path / "records", target=target)
    # No linker for ARM is needed: what is linked is looked at, not run.
    copier = script_linker('cp "$obj" "$out"')
    with WarmBuilder(cores=[core], linker=copier, log=tmp_path / "log") as cross:
        report = tune_kernels(
            lowered.kernels,
            store,
            target=target,
            builder=cross,
            runner=FixedRunner(lambda run: run * 1e-6),
            budget=TuningBudget(schedules_per_kernel=2),
            seed=0,
        )
    assert all(kernel.failures == {} for kernel in report.kernels)
    artifact = compile_network(lowered, store, tmp_path / "net.so", linker=copier)
    assert made_for(artifact.path) == AARCH64
