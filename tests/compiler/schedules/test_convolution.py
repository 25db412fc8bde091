"""Register tiles as code: each computes what the unscheduled kernel computes, and is a record like any other."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import tvm
import tvm.s_tir
import tvm_ffi
from torch import Tensor, nn
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tests.compiler.scheduled import arguments_of, module_of, replayed, run_kernel
from tests.compiler.targets import CORTEX_A72, HASWELL, SKYLAKE_AVX512, ZNVER4
from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.core.target import core_model, load_target
from tvm_mnas.compiler.lowering import legalize
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.schedules import convolution
from tvm_mnas.compiler.schedules.convolution import conv_shape, propose_convolutions, schedule_tile
from tvm_mnas.compiler.schedules.tiles import LoopOrder, PaddingSource, Tile, rank_tiles
from tvm_mnas.cores.model import CoreModel

TRIED = 4


class Residual(nn.Module):
    """A pointwise convolution whose result is added to what another one made."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 24, 1)
        self.second = nn.Conv2d(24, 24, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = torch.relu(self.first(images))
        return self.second(first) + first


def _conv(inputs: int, outputs: int, size: int, **options: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, **options), nn.ReLU())


NETWORKS: dict[str, tuple[nn.Module, tuple[int, int, int, int]]] = {
    "pointwise": (_conv(24, 48, 1), (1, 24, 6, 6)),
    "pointwise, odd image": (_conv(16, 32, 1), (1, 16, 7, 5)),
    "pointwise, narrow": (_conv(16, 12, 1), (1, 16, 4, 4)),
    "residual": (Residual(), (1, 16, 6, 6)),
    "single pixel": (_conv(48, 16, 1), (1, 48, 1, 1)),
    "depthwise 3x3": (_conv(16, 16, 3, padding=1, groups=16), (1, 16, 8, 8)),
    "depthwise 3x3, stride 2": (_conv(24, 24, 3, padding=1, stride=2, groups=24), (1, 24, 8, 8)),
    "depthwise 5x5": (_conv(16, 16, 5, padding=2, groups=16), (1, 16, 7, 7)),
    "depthwise 5x5, stride 2": (_conv(8, 8, 5, padding=2, stride=2, groups=8), (1, 8, 14, 14)),
    "pointwise, 15 lanes": (_conv(20, 30, 1), (1, 20, 4, 4)),
    "depthwise, 15 lanes": (_conv(30, 30, 3, padding=1, groups=30), (1, 30, 6, 6)),
    "grouped, 5 lanes": (_conv(20, 20, 3, padding=1, groups=4), (1, 20, 4, 4)),
    "grouped 3x3": (_conv(32, 16, 3, padding=1, groups=2), (1, 32, 6, 6)),
    "grouped, half a vector each": (_conv(32, 16, 1, groups=8), (1, 32, 6, 6)),
    "grouped, one output each": (_conv(32, 8, 3, padding=1, groups=8), (1, 32, 6, 6)),
    "two outputs of each input": (_conv(16, 32, 3, padding=1, groups=16), (1, 16, 6, 6)),
    "stem": (_conv(3, 16, 3, padding=1, stride=2), (1, 3, 16, 16)),
    "full 3x3": (_conv(8, 16, 3, padding=1), (1, 8, 6, 6)),
    "full 5x5": (_conv(8, 8, 5, padding=2), (1, 8, 6, 6)),
}


@pytest.fixture(scope="module")
def lowered(target: str) -> dict[str, list[Kernel]]:
    """The convolution kernels of each network."""
    found = {}
    for name, (network, shape) in NETWORKS.items():
        kernels = lower_network(network.eval(), shape, target).kernels
        found[name] = [kernel for kernel in kernels if kernel.name.startswith("conv2d")]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tile_computes_what_the_unscheduled_kernel_computes(
    name: str, lowered: dict[str, list[Kernel]], target: str
) -> None:
    assert lowered[name]
    for kernel in lowered[name]:
        module = module_of(kernel)
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target)
        schedules = list(islice(propose_convolutions(module, target), TRIED))
        assert schedules, f"no tile fits {kernel.name}"
        for schedule in schedules:
            # The packing of weights is part of the module as long as nothing takes it out.
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target), expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", ["depthwise 3x3", "full 3x3", "pointwise"])
def test_every_way_around_a_tile_is_right(
    name: str, lowered: dict[str, list[Kernel]], target: str
) -> None:
    (kernel,) = lowered[name]
    module = module_of(kernel)
    shape = conv_shape(module)
    assert shape is not None
    arrays = arguments_of(module)
    expected = run_kernel(module, arrays, target)
    tiles = rank_tiles(shape, core_model(target))
    ways = {(tile.order, tile.padding): tile for tile in reversed(tiles)}
    assert {order for order, _ in ways} == set(LoopOrder)
    if name == "full 3x3":
        assert {padding for _, padding in ways} == set(PaddingSource)
    for tile in ways.values():
        for threads in (1, 2):
            schedule = schedule_tile(module, tile, threads=threads)
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target), expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", ["pointwise", "pointwise, odd image", "residual", "single pixel"])
@pytest.mark.parametrize("inputs", [2, 4])
def test_inputs_that_are_loaded_as_vectors_give_the_same(
    name: str, inputs: int, lowered: dict[str, list[Kernel]], target: str
) -> None:
    for kernel in lowered[name]:
        module = module_of(kernel)
        shape = conv_shape(module)
        assert shape is not None
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target)
        for tile in rank_tiles(shape, core_model(target))[:TRIED]:
            schedule = schedule_tile(module, replace(tile, inputs=inputs), threads=1)
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target), expected, rtol=1e-4, atol=1e-4
            )
            assert tvm_ffi.structural_equal(replayed(schedule, module, target), schedule.mod)


@pytest.mark.parametrize("name", ["pointwise", "pointwise, odd image", "residual"])
@pytest.mark.parametrize("columns", [4, 5, 6, 8])
def test_a_tile_over_pixels_in_one_line_computes_its_remainder_too(
    name: str, columns: int, lowered: dict[str, list[Kernel]], target: str
) -> None:
    """6 x 6 and 7 x 5 pixels: 36 and 35 of them, which these tiles mostly do not divide."""
    for kernel in lowered[name]:
        module = module_of(kernel)
        shape = conv_shape(module)
        assert shape is not None and shape.flat
        arrays = arguments_of(module)
        expected = run_kernel(module, arrays, target)
        lanes = 8
        for order, threads in ((order, threads) for order in LoopOrder for threads in (1, 2)):
            tile = Tile(
                rows=1,
                columns=columns,
                vectors=shape.channels // lanes,
                lanes=lanes,
                order=order,
                padding=PaddingSource.TESTED,
                flat=True,
            )
            schedule = schedule_tile(module, tile, threads=threads)
            np.testing.assert_allclose(
                run_kernel(schedule.mod, arrays, target), expected, rtol=1e-4, atol=1e-4
            )
            assert tvm_ffi.structural_equal(replayed(schedule, module, target), schedule.mod)


def test_the_loop_over_whole_tiles_asks_for_nothing() -> None:
    """AVX2, 7 x 7 pixels: tiles of rows and columns have 7 sums or none, and 8 are needed to hide a latency."""
    network = nn.Sequential(nn.Conv2d(3, 192, 3, padding=1), nn.Conv2d(192, 1152, 1)).eval()
    kernels = lower_network(network, (1, 3, 7, 7), HASWELL).kernels
    (kernel,) = (kernel for kernel in kernels if " 1x1x192x1152" in kernel.name)
    schedule = next(propose_convolutions(module_of(kernel), HASWELL))
    code = _code(schedule, HASWELL, "asm")
    code = re.sub(r"^\.Ltmp\d+:\n", "", code, flags=re.MULTILINE)
    bodies = [body for body in re.split(r"^\.L\w+:$", code, flags=re.MULTILINE) if "vfmadd" in body]
    inner = max(bodies, key=lambda body: body.count("vfmadd"))
    assert inner.count("vfmadd") % 10 == 0, "whole tiles of 5 x 2 vectors"
    assert len(re.findall(r"\tj\w+\t", inner.partition("\tjne\t")[0])) == 0


def _code(schedule: Any, target: str, language: str) -> str:
    plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    return str(tvm.compile(plain, target=load_target(target)).mod.inspect_source(language))


@pytest.mark.parametrize("target", [CORTEX_A72, HASWELL], ids=["a72", "haswell"])
@pytest.mark.parametrize("name", ["pointwise", "depthwise 3x3", "full 3x3", "single pixel"])
def test_sums_never_reach_the_heap(name: str, target: str) -> None:
    network, shape = NETWORKS[name]
    kernels = lower_network(network.eval(), shape, target).kernels
    (kernel,) = (kernel for kernel in kernels if kernel.name.startswith("conv2d"))
    schedule = next(propose_convolutions(module_of(kernel), target))
    assert "AllocWorkspace" not in _code(schedule, target, "ll")


def test_on_arm_a_multiply_add_takes_a_lane_of_a_vector_of_inputs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 80, 3, padding=1), nn.Conv2d(80, 480, 1)).eval()
    kernels = lower_network(network, (1, 3, 14, 14), CORTEX_A72).kernels
    (kernel,) = (kernel for kernel in kernels if " 1x1x80x480" in kernel.name)
    module = module_of(kernel)
    code = _code(next(propose_convolutions(module, CORTEX_A72)), CORTEX_A72, "asm")
    lanes = re.findall(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[(\d)\]", code)
    assert len(lanes) >= 32
    assert {lanes.count(lane) for lane in "0123"} == {len(lanes) // 4}
    # Nothing is broadcast, and what is loaded in the loop is whole vectors.
    assert not re.search(r"\b(ld1r|dup)\b", code)


def test_the_extents_are_read_off_the_kernel(lowered: dict[str, list[Kernel]]) -> None:
    (kernel,) = lowered["depthwise 5x5, stride 2"]
    shape = conv_shape(module_of(kernel))
    assert shape is not None
    assert (shape.height, shape.width, shape.channels) == (7, 7, 8)
    assert (shape.kernel_height, shape.kernel_width, shape.inputs) == (5, 5, 1)
    assert (shape.stride, shape.depthwise, shape.padded) == (2, True, True)
    assert shape.groups == 8
    (kernel,) = lowered["grouped 3x3"]
    shape = conv_shape(module_of(kernel))
    assert shape is not None
    assert (shape.inputs, shape.groups, shape.group_channels, shape.depthwise) == (16, 2, 8, False)
    (kernel,) = lowered["stem"]
    shape = conv_shape(module_of(kernel))
    assert shape is not None
    assert (shape.inputs, shape.stride, shape.depthwise, shape.padded) == (3, 2, False, True)


def test_what_is_no_convolution_has_no_tiles(target: str) -> None:
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)).eval()
    kernels = lower_network(network, (1, 4, 4, 4), target).kernels
    assert kernels
    for kernel in kernels:
        assert list(propose_convolutions(module_of(kernel), target)) == []


class FarSide(nn.Module):
    """A convolution with a border behind it, on the far sides alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 24, 1)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.pad(self.conv(images), (0, 1, 0, 1))


def test_a_border_behind_a_convolution_is_a_kernel_of_its_own_and_within_one_has_no_tiles(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM takes it for element-wise; a tile would leave the border unwritten."""
    network = FarSide().eval()

    def convolutions() -> list[Kernel]:
        lowered = lower_network(network, (1, 16, 6, 6), target)
        return [kernel for kernel in lowered.kernels if "conv2d" in kernel.name]

    (apart,) = convolutions()
    assert "pad" not in apart.name
    assert list(propose_convolutions(module_of(apart), target))
    monkeypatch.setattr(legalize, "_INJECTIVE", 0)  # element-wise, as TVM has it
    (fused,) = convolutions()
    assert "pad" in fused.name
    assert conv_shape(module_of(fused)) is None
    assert list(propose_convolutions(module_of(fused), target)) == []


def test_a_tile_is_a_record_that_replays(lowered: dict[str, list[Kernel]], target: str) -> None:
    (kernel,) = lowered["depthwise 3x3"]
    module = module_of(kernel)
    schedule = next(propose_convolutions(module, target))
    assert tvm_ffi.structural_equal(replayed(schedule, module, target), schedule.mod)


@pytest.mark.parametrize(
    ("text", "core"),
    [
        (SKYLAKE_AVX512, CoreModel(lanes=16, registers=32)),
        (HASWELL, CoreModel(lanes=8, registers=16)),
        (ZNVER4, CoreModel(lanes=16, registers=32, datapath=8)),
        (
            '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"}',
            CoreModel(lanes=4, registers=16),
        ),
        (CORTEX_A72, CoreModel(lanes=4, registers=32, multiplies_lanes=True)),
        (
            '{"kind": "llvm", "mtriple": "armv7l-linux-gnueabihf", "mattr": ["+neon"]}',
            CoreModel(lanes=4, registers=16),
        ),
    ],
)
def test_the_model_of_the_core_is_that_of_the_target(text: str, core: CoreModel) -> None:
    assert core_model(text) == core


def test_a_core_that_a_target_states_is_the_one_that_tiles_are_for() -> None:
    stated = json.dumps({**json.loads(CORTEX_A72), "core_model": {"registers": 8, "datapath": 2}})
    assert core_model(stated) == CoreModel(lanes=4, registers=8, datapath=2, multiplies_lanes=True)
    assert str(load_target(stated)) == str(load_target(CORTEX_A72)), "TVM is not told"


def test_a_tile_that_does_not_fit_costs_only_itself(
    lowered: dict[str, list[Kernel]], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM refuses a schedule only when it is asked, and the round has others."""
    tiles: list[Tile] = []

    def schedule(module: object, tile: Tile, *, threads: int, dots: object) -> Tile:
        tiles.append(tile)
        if len(tiles) == 2:
            raise tvm.s_tir.ScheduleError("injected")
        return tile

    monkeypatch.setattr(convolution, "schedule_tile", schedule)
    (kernel,) = lowered["pointwise"]
    proposed = list(islice(propose_convolutions(module_of(kernel), target), 3))
    assert proposed == [tiles[0], *tiles[2:4]]


@pytest.mark.parametrize(
    ("target", "register"),
    [(SKYLAKE_AVX512, r"%zmm\d+"), (HASWELL, r"%ymm\d+"), (CORTEX_A72, r"\bv\d+\.4s")],
    ids=["skylake-avx512", "haswell", "cortex-a72"],
)
@pytest.mark.parametrize("name", ["pointwise", "depthwise 3x3", "full 3x3"])
def test_the_first_tile_is_code_for_a_core_that_is_not_here(
    name: str, target: str, register: str
) -> None:
    network, shape = NETWORKS[name]
    (kernel,) = [
        kernel
        for kernel in lower_network(network.eval(), shape, target).kernels
        if kernel.name.startswith("conv2d")
    ]
    schedule = next(propose_convolutions(module_of(kernel), target))
    code = tvm.compile(schedule.mod, target=load_target(target)).mod.inspect_source("asm")
    assert re.search(register, code), "no whole vector"
