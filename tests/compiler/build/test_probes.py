"""Probes compute what they claim to, and an untuned kernel is the same function as a tuned one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm

from tvm_mnas.compiler.build.probes import Probe, build_probes, build_reference, build_untuned
from tvm_mnas.compiler.core.linking import find_linker
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.errors import BuildError

TARGET = json.dumps({"kind": "llvm", "num-cores": 1})


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> list[Probe]:
    return build_probes(TARGET, tmp_path_factory.mktemp("probes"), linker=find_linker(TARGET))


def run(path: Path, *arrays: np.ndarray) -> None:
    library = tvm.runtime.load_module(str(path))
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    library["main"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


def test_probes_of_arithmetic_do_all_their_steps(probes: list[Probe]) -> None:
    arithmetic = [probe for probe in probes if probe.flops]
    assert arithmetic
    for probe in arithmetic:
        (_, (extent,)), _ = probe.arguments
        source = np.linspace(-8, 8, extent, dtype=np.float32)
        result = np.zeros(extent, np.float32)
        run(probe.path, source, result)
        # x/2 + 1 again and again ends at 2, from wherever it starts; one step less than 24 would show.
        assert np.array_equal(result, np.full(extent, 2, np.float32))
        assert probe.flops % (2 * extent) == 0


def test_probes_of_memory_go_through_all_of_it(probes: list[Probe]) -> None:
    memory = [probe for probe in probes if probe.size_bytes]
    assert memory
    for probe in memory:
        (_, (extent,)), (_, (results,)) = probe.arguments
        source = np.ones(extent, np.float32)
        result = np.zeros(results, np.float32)
        run(probe.path, source, result)
        if results == extent:
            assert np.array_equal(result, np.full(extent, 2, np.float32))
        else:
            assert result.sum(dtype=np.float64) == extent
        moved = extent + (results if results == extent else 0)
        assert probe.size_bytes == 4 * moved


def test_the_reference_multiplies_matrices(tmp_path: Path) -> None:
    arguments = build_reference(TARGET, tmp_path / "reference.so", linker=find_linker(TARGET))
    random = np.random.default_rng(0)
    left, right, result = (random.standard_normal(shape).astype(kind) for kind, shape in arguments)
    expected = left.astype(np.float64) @ right
    for _ in range(2):  # nothing of a run before is left in it
        run(tmp_path / "reference.so", left, right, result)
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_an_untuned_kernel_computes_what_torch_does(tmp_path: Path) -> None:
    # The second convolution: the first reads the image as torch has it.
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 1, bias=False)
    )
    lowered = lower_network(network, (1, 3, 4, 4), TARGET)
    (kernel,) = [kernel for kernel in lowered.kernels if kernel.name.endswith(" 1x1x16x32")]
    arguments = build_untuned(kernel, TARGET, tmp_path / "k.so", linker=find_linker(TARGET))
    assert arguments[0] == ("float32", (1, 4, 4, 16))
    images, weights = (
        np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for _, shape in arguments[:2]
    )
    result = np.zeros(arguments[-1][1], np.float32)
    library = tvm.runtime.load_module(str(tmp_path / "k.so"))
    tensor = tvm.runtime.tensor(result)
    name = str(next(iter(tvm_functions(kernel.workload))))
    library[name](tvm.runtime.tensor(images), tvm.runtime.tensor(weights), tensor)
    expected = np.einsum("nhwc,c...o->nhwo", images, weights.reshape(16, 32))
    assert np.allclose(tensor.numpy().reshape(expected.shape), expected, atol=1e-5)


def tvm_functions(workload: str) -> list[str]:
    from tvm_mnas.compiler.core.metaschedule import load_meta_schedule

    module = load_meta_schedule().database.Workload.from_json(json.loads(workload)).mod
    return [variable.name_hint for variable in module.get_global_vars()]


def test_a_target_that_tvm_does_not_build_for_is_said_so(tmp_path: Path) -> None:
    target = json.dumps({"kind": "abacus", "num-cores": 1})
    with pytest.raises(BuildError, match="TVM cannot build sums-"):
        build_probes(target, tmp_path, linker=find_linker(TARGET))
