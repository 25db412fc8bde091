"""What a network is made of: kernels that are the same wherever they occur."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compiler.conftest import SHAPE, Mean, small_network
from tests.compiler.targets import HASWELL, SKYLAKE_AVX512, ZNVER4, runs_here
from tests.compiler.untuned import build_untuned, run_here
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.constants import fold_layouts
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.errors import Interruption, LoweringError
from tvm_mnas.models.inference import predict

_ONE_CONVOLUTION = nn.Sequential(nn.Conv2d(16, 24, 1, bias=False), nn.ReLU())


def _calls(lowered: LoweredNetwork) -> list[str]:
    return re.findall(r"call_tir\((?:cls\.)?(\w+),", lowered.module["main"].script())


def test_every_call_of_the_network_belongs_to_a_kernel(lowered: LoweredNetwork) -> None:
    assert len(_calls(lowered)) == sum(kernel.calls for kernel in lowered.kernels)
    assert len({kernel.key for kernel in lowered.kernels}) == len(lowered.kernels)
    assert all(re.fullmatch("[0-9a-f]{16}", kernel.key) for kernel in lowered.kernels)
    assert lowered.input_shape == SHAPE


def test_nothing_is_left_of_batch_norm_and_the_input_stays_nchw(lowered: LoweredNetwork) -> None:
    text = lowered.module.script()
    assert "batch_norm" not in text
    assert "rsqrt" not in text
    (images,) = lowered.module["main"].params
    assert tuple(int(extent) for extent in images.ty.shape) == SHAPE


def test_flops_are_two_per_multiply_add(target: str) -> None:
    (kernel,) = (
        kernel
        for kernel in lower_network(_ONE_CONVOLUTION, (1, 16, 8, 8), target).kernels
        if "conv2d" in kernel.name
    )
    outputs = 24 * 8 * 8
    # The activation counts one more per output, or none, as TVM pleases.
    assert 2 * 16 * outputs <= kernel.flops <= (2 * 16 + 1) * outputs


def test_a_kernel_moves_what_it_reads_and_writes_and_a_network_that_of_all_calls(
    target: str,
) -> None:
    layers = [nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.ReLU()) for _ in range(4)]
    lowered = lower_network(nn.Sequential(*layers), (1, 16, 6, 6), target)
    (middle,) = [kernel for kernel in lowered.kernels if kernel.calls > 1]
    image = 16 * 6 * 6
    assert middle.moved_bytes == 4 * (image + 16 * 16 + image)
    calls = [kernel for kernel in lowered.kernels for _ in range(kernel.calls)]
    assert lowered.kernel_calls == len(calls)
    assert lowered.moved_bytes == sum(kernel.moved_bytes for kernel in calls)


def test_kernels_do_not_depend_on_weights(lowered: LoweredNetwork, target: str) -> None:
    other = lower_network(small_network(seed=1), SHAPE, target)
    assert [kernel.key for kernel in other.kernels] == [kernel.key for kernel in lowered.kernels]


def test_equal_layers_of_one_network_and_of_different_ones_are_one_kernel(target: str) -> None:
    def chain(length: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()) for _ in range(length))
        )

    short, long = (lower_network(chain(n), (1, 16, 6, 6), target) for n in (2, 4))
    calls_short = {kernel.key: kernel.calls for kernel in short.kernels}
    calls_long = {kernel.key: kernel.calls for kernel in long.kernels}
    assert calls_short.keys() == calls_long.keys()
    # The first reads the image as it comes, and the last one's output is laid out again.
    assert sorted(calls_long.values()) == [1, 1, 3]


@pytest.mark.parametrize(("core", "channels"), [(HASWELL, 24), (ZNVER4, 24), (SKYLAKE_AVX512, 32)])
def test_channels_are_rounded_up_to_what_a_core_works_on_at_once(core: str, channels: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 1))
    names = [kernel.name for kernel in lower_network(network, (1, 3, 8, 8), core).kernels]
    assert any(f"1x1x3x{channels}" in name for name in names), names


_FILLED_UP = nn.Sequential(
    *(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Conv2d(24, 40, 1), nn.ReLU()),
    *(nn.Conv2d(40, 20, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(20, 16, 1)),
)
"""Where a vector has 16 lanes the second and the third fill up theirs, and read vectors that others filled up."""


def test_channels_that_fill_up_a_vector_are_not_summed_over() -> None:
    lowered = lower_network(_FILLED_UP.eval(), (1, 3, 8, 8), SKYLAKE_AVX512)
    found = re.findall(r"(?:1x1|3x3)x\d+x\d+", " ".join(kernel.name for kernel in lowered.kernels))
    assert sorted(found) == ["1x1x24x16", "1x1x24x48", "1x1x3x32", "3x3x40x32"]
    # Nothing is copied but the output, to where torch has it.
    assert lowered.kernel_calls == len(found) + 1


def test_a_network_that_fills_up_its_vectors_computes_what_torch_computes(tmp_path: Path) -> None:
    target = json.dumps({**json.loads(runs_here()), "core_model": {"lanes": 16}})
    torch.manual_seed(0)
    lowered = lower_network(_FILLED_UP.eval(), (1, 3, 8, 8), target)
    assert any("1x1x24x48" in kernel.name for kernel in lowered.kernels)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    found = run_here(build_untuned(lowered, tmp_path), images)
    np.testing.assert_allclose(found, predict(_FILLED_UP, images), rtol=1e-4, atol=1e-5)


def test_a_pooling_is_the_same_kernel_at_any_depth(target: str) -> None:
    """TVM names a reduction's block after the Relax variable before it; a key must not see that."""

    def head(depth: int) -> nn.Module:
        layers = [nn.Conv2d(8, 8, 1) for _ in range(depth)]
        return nn.Sequential(*layers, Mean())

    keys = [
        {
            kernel.key
            for kernel in lower_network(head(depth), (1, 8, 6, 6), target).kernels
            if "mean" in kernel.name
        }
        for depth in (1, 3)
    ]
    assert keys[0]
    assert keys[0] == keys[1]


def test_keys_are_the_same_in_another_process(lowered: LoweredNetwork, target: str) -> None:
    code = (
        "import sys; from tests.compiler.conftest import SHAPE, Mean, small_network\n"
        "from tvm_mnas.compiler.lowering.lower import lower_network\n"
        "network = lower_network(small_network(seed=5), SHAPE, sys.argv[1])\n"
        "print(' '.join(kernel.key for kernel in network.kernels))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, target],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env={"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.stdout.split() == [kernel.key for kernel in lowered.kernels]


def test_lowering_leaves_the_network_as_it_was(target: str) -> None:
    network = small_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lower_network(network, SHAPE, target)
    assert network.training
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class _Loop(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        while images.sum() > 0:
            images = images - 1
        return images


def test_a_network_that_cannot_be_expressed_is_one_clear_error(target: str) -> None:
    with pytest.raises(LoweringError) as caught:
        lower_network(_Loop(), SHAPE, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Interruption])
def test_an_interruption_inside_tvm_is_no_failure_of_the_network(
    target: str, monkeypatch: pytest.MonkeyPatch, kind: type[KeyboardInterrupt]
) -> None:
    def interrupted(*_: object) -> None:
        raise kind

    monkeypatch.setattr("tvm_mnas.compiler.lowering.legalize.before_transpose", interrupted)
    with pytest.raises(kind):
        lower_network(_ONE_CONVOLUTION, (1, 16, 8, 8), target)


def test_a_target_that_tvm_does_not_know_is_an_error() -> None:
    with pytest.raises(LoweringError, match="nonsense"):
        lower_network(_ONE_CONVOLUTION, (1, 16, 8, 8), json.dumps({"kind": "nonsense"}))


def test_weights_are_transposed_without_the_compiler(target: str) -> None:
    """Folding by numpy gives what TVM's own, slower FoldConstant gives."""
    from tvm import relax
    from tvm.ir import GenericConst
    from tvm.relax.frontend.torch import from_exported_program

    program = torch.export.export(_ONE_CONVOLUTION, (torch.zeros(1, 16, 8, 8),))
    module = from_exported_program(
        program, keep_params_as_input=False, unwrap_unit_return_tuple=True
    )
    module = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})(module)
    module = relax.transform.Normalize()(module)

    def weights(folded: Any) -> np.ndarray:
        found: list[Any] = []
        relax.analysis.post_order_visit(
            relax.transform.DeadCodeElimination()(folded)["main"],
            lambda node: found.append(node) if isinstance(node, GenericConst) else None,
        )
        (constant,) = (item.value.numpy() for item in found if item.value.numpy().ndim == 4)
        return np.asarray(constant)

    ours, theirs = weights(fold_layouts(module)), weights(relax.transform.FoldConstant()(module))
    assert ours.shape == (1, 1, 16, 24)
    np.testing.assert_array_equal(ours, theirs)


def test_the_image_is_read_as_it_comes(target: str) -> None:
    first = nn.Conv2d(3, 8, 3, padding=1)
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1)).eval()
    lowered = lower_network(network, (1, 3, 8, 8), target)
    assert any(kernel.name.startswith("conv2d_add_relu 1x3x8x8") for kernel in lowered.kernels)
    # The outputs' layout is torch's again at the end, one element a channel.
    moved = [kernel.name for kernel in lowered.kernels if kernel.name.startswith("transpose")]
    assert all("1x3x8x8" not in name for name in moved)


def test_a_gate_is_not_computed_anew_for_every_pixel(lowered: LoweredNetwork, target: str) -> None:
    (gate,) = [kernel for kernel in lowered.kernels if kernel.name.startswith("gate ")]
    # One product for each of 8 channels of 8x8 pixels, and no sigmoid among them.
    assert gate.flops == 8 * 8 * 8
    (sigmoid,) = [kernel for kernel in lowered.kernels if "sigmoid" in kernel.name]
    assert sigmoid.flops < 8 * 8 * 8
