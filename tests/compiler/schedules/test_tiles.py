"""Which register tiles are tried, and in which order: they divide the output, they fit the registers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tvm_mnas.compiler.schedules.tiles import ConvShape, LoopOrder, PaddingSource, Tile, rank_tiles
from tvm_mnas.cores.model import CoreModel

AVX512 = CoreModel(lanes=16, registers=32)
DOUBLE_PUMPED = replace(AVX512, datapath=8)
AVX2 = CoreModel(lanes=8, registers=16)
NEON = CoreModel(lanes=4, registers=32, multiplies_lanes=True)

POINTWISE = ConvShape(
    height=14,
    width=14,
    channels=480,
    kernel_height=1,
    kernel_width=1,
    inputs=80,
    groups=1,
    stride=1,
    padded=False,
)
DEPTHWISE = replace(
    POINTWISE, channels=72, kernel_height=5, kernel_width=5, inputs=1, groups=72, padded=True
)
GROUPED = replace(POINTWISE, channels=64, groups=8, inputs=32)
STEM = replace(
    POINTWISE,
    height=112,
    width=112,
    channels=32,
    kernel_height=3,
    kernel_width=3,
    inputs=3,
    stride=2,
    padded=True,
)


@pytest.mark.parametrize(
    "core", [AVX512, DOUBLE_PUMPED, AVX2, NEON], ids=["avx512", "double-pumped", "avx2", "neon"]
)
@pytest.mark.parametrize(
    "shape", [POINTWISE, DEPTHWISE, GROUPED, STEM], ids=["pw", "dw", "g", "stem"]
)
def test_every_tile_divides_the_output_and_fits_the_registers(
    shape: ConvShape, core: CoreModel
) -> None:
    tiles = rank_tiles(shape, core)
    assert tiles
    assert len(set(tiles)) == len(tiles)
    for tile in tiles:
        assert shape.height % tile.rows == 0
        assert shape.width % tile.columns == 0
        assert shape.channels % tile.channels == 0
        assert tile.lanes <= core.lanes
        # Where inputs are loaded as vectors these stay in registers, and weights come in pairs.
        loaded = tile.vectors + 1 if tile.inputs == 1 else tile.pixels + min(2, tile.vectors)
        assert tile.pixels * tile.vectors + loaded <= core.registers


def test_the_first_tile_of_a_pointwise_convolution_fills_both_units() -> None:
    first = rank_tiles(POINTWISE, AVX512)[0]
    # Fewer sums than the latency of two units hides would leave them idle.
    assert first.lanes == 16
    assert first.pixels * first.vectors >= 8
    # Loads must not outnumber products.
    assert first.pixels + first.vectors <= first.pixels * first.vectors


def test_inputs_are_loaded_as_vectors_where_a_multiply_add_takes_a_lane() -> None:
    def inputs(shape: ConvShape, core: CoreModel) -> set[int]:
        return {tile.inputs for tile in rank_tiles(shape, core)}

    assert inputs(POINTWISE, NEON) == {4}
    assert inputs(replace(POINTWISE, inputs=18), NEON) == {2}
    assert inputs(replace(POINTWISE, inputs=9), NEON) == {1}
    for other in (DEPTHWISE, GROUPED, STEM):
        assert inputs(other, NEON) == {1}
    for core in (AVX2, AVX512):
        assert inputs(POINTWISE, core) == {1}


def test_the_first_tiles_on_arm_take_few_instructions_besides_their_multiply_adds() -> None:
    for shape in (POINTWISE, replace(POINTWISE, height=7, width=7, channels=1152, inputs=192)):
        tile = rank_tiles(shape, NEON)[0]
        products = tile.inputs * tile.pixels * tile.vectors
        others = tile.pixels + tile.inputs * math.ceil(tile.vectors / 2) + 3
        assert tile.pixels * tile.vectors >= 8, "the latency of an addition is hidden"
        assert others <= 0.25 * products


SEVEN = replace(POINTWISE, height=7, width=7, channels=1152, inputs=192)


def test_pixels_are_one_line_where_rows_and_columns_leave_the_units_idle() -> None:
    first = rank_tiles(SEVEN, AVX2)[0]
    assert first.flat
    assert first.columns * first.vectors >= 8, "the latency of an addition is hidden"
    # 49 = 9 x 5 + 4: what remains is nearly as good; of 6 it would be a single pixel.
    assert 49 % first.columns * first.vectors >= 8
    assert any(not tile.flat for tile in rank_tiles(SEVEN, AVX2)[:32])


def test_half_vectors_are_as_good_where_a_core_works_on_half_a_register_at_once() -> None:
    narrow = replace(POINTWISE, channels=72)
    assert {tile.lanes for tile in rank_tiles(narrow, DOUBLE_PUMPED)} == {8}
    whole = rank_tiles(POINTWISE, DOUBLE_PUMPED)
    assert {tile.lanes for tile in whole} == {16, 8}
    # Fewer sums hide the latency of an addition where each takes two passes.
    single = replace(SEVEN, channels=16)
    assert rank_tiles(single, AVX512)[0].flat
    assert not rank_tiles(single, DOUBLE_PUMPED)[0].flat


@pytest.mark.parametrize("core", [AVX2, AVX512, NEON], ids=["avx2", "avx512", "neon"])
def test_a_line_is_of_what_reads_its_own_pixel_alone_and_fits_the_registers(
    core: CoreModel,
) -> None:
    strided = replace(SEVEN, stride=2)
    for shape in (DEPTHWISE, STEM, strided, replace(SEVEN, height=1, width=1)):
        assert not any(tile.flat for tile in rank_tiles(shape, core))
    for tile in rank_tiles(SEVEN, core):
        assert tile.pixels * tile.vectors < core.registers
        assert tile.channels * (SEVEN.channels // tile.channels) == SEVEN.channels
        assert tile.flat == bool(SEVEN.width % tile.columns)


def test_a_single_pixel_gets_as_many_sums_as_it_can() -> None:
    gate = replace(POINTWISE, height=1, width=1, channels=96, inputs=24)
    first = rank_tiles(gate, AVX512)[0]
    assert first.pixels == 1
    assert first.vectors == 6
    assert {tile.order for tile in rank_tiles(gate, AVX512)} == {LoopOrder.CHANNELS_OUTSIDE}


def test_channels_that_no_full_vector_divides_get_shorter_ones() -> None:
    narrow = replace(POINTWISE, channels=24)
    assert {tile.lanes for tile in rank_tiles(narrow, AVX512)} == {12, 8}
    assert {tile.lanes for tile in rank_tiles(narrow, AVX2)} == {8, 4}
    odd = replace(POINTWISE, channels=90)
    assert {tile.lanes for tile in rank_tiles(odd, AVX512)} == {15, 10}
    assert {tile.lanes for tile in rank_tiles(odd, NEON)} == {3, 2}
    assert {tile.lanes for tile in rank_tiles(replace(odd, channels=7), AVX512)} == {7}
    assert rank_tiles(replace(odd, channels=7), NEON) == []


def test_a_depthwise_convolution_gets_vectors_of_a_power_of_two() -> None:
    assert {tile.lanes for tile in rank_tiles(DEPTHWISE, AVX512)} == {8, 4}
    odd = replace(DEPTHWISE, channels=90, groups=90)
    assert {tile.lanes for tile in rank_tiles(odd, AVX512)} == {2}


def test_a_vector_stays_within_a_group_where_one_fits() -> None:
    assert {tile.lanes for tile in rank_tiles(GROUPED, AVX512)} == {8, 4}
    # A tile of one group reads a pixel once for all its vectors; one of many reads it for each.
    first = rank_tiles(replace(GROUPED, channels=256, groups=2), AVX512)[0]
    assert first.channels <= 128
    single = replace(GROUPED, channels=8, groups=8)
    assert {tile.lanes for tile in rank_tiles(single, AVX512)} == {8, 4}


def test_few_trials_see_both_orders_of_the_best_shape() -> None:
    first, second = rank_tiles(POINTWISE, AVX512)[:2]
    assert replace(first, order=second.order, prefetch=second.prefetch) == second
    assert first.order is not second.order


def test_the_image_is_copied_only_where_a_full_convolution_pads() -> None:
    def paddings(shape: ConvShape) -> set[PaddingSource]:
        return {tile.padding for tile in rank_tiles(shape, AVX512)}

    assert paddings(STEM) == {PaddingSource.TESTED, PaddingSource.COPIED}
    assert paddings(DEPTHWISE) == {PaddingSource.TESTED}
    assert paddings(POINTWISE) == {PaddingSource.TESTED}


def test_weights_beyond_the_first_cache_favour_tiles_of_more_pixels() -> None:
    deep = replace(POINTWISE, height=7, width=7, channels=320, inputs=1152)
    best: Tile = rank_tiles(deep, AVX512)[0]
    assert best.pixels >= 7


@pytest.mark.parametrize(
    ("shape", "core", "fetched"),
    [
        (POINTWISE, AVX512, True),
        (POINTWISE, replace(AVX512, first_cache_bytes=480 * 80 * 4), False),
        (replace(POINTWISE, channels=24), AVX512, False),
        (replace(POINTWISE, height=1, width=1), AVX512, False),
        (DEPTHWISE, AVX512, False),
        (replace(GROUPED, inputs=320), AVX512, False),
        (replace(STEM, inputs=64), AVX512, False),
    ],
    ids=["weights of 150 KiB", "held", "of 7 KiB", "one pixel", "depthwise", "grouped", "3x3"],
)
def test_weights_are_fetched_ahead_for_the_pixels_that_pass_a_slice_of_them(
    shape: ConvShape, core: CoreModel, fetched: bool
) -> None:
    tiles = rank_tiles(shape, core)
    assert tiles
    for tile in tiles:
        assert tile.prefetch == (fetched and tile.order is LoopOrder.CHANNELS_OUTSIDE)
