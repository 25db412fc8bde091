"""Table 3: one kind of layer throughout, everything else as it was."""

from __future__ import annotations

import pytest

from tvm_mnas.models.zoo.registry import zoo_entry
from tvm_mnas.models.zoo.variants import table_3
from tvm_mnas.space.architecture import ConvOp

KINDS = {"figure7-b": (3, 3), "figure7-c": (5, 3), "figure7-d": (3, 6), "figure7-e": (5, 6)}


def test_the_first_row_is_the_baseline() -> None:
    assert table_3()[0].architecture == zoo_entry("mnasnet").architecture


@pytest.mark.parametrize("key", KINDS)
def test_a_variant_has_one_kind_of_layer_and_the_baselines_shapes(key: str) -> None:
    (variant,) = [variant for variant in table_3() if variant.key == key]
    baseline = table_3()[0].architecture
    kernel_size, expansion = KINDS[key]
    assert {block.conv_op for block in variant.architecture.blocks} == {ConvOp.MBCONV}
    assert {block.kernel_size for block in variant.architecture.blocks} == {kernel_size}
    assert {block.expansion for block in variant.architecture.blocks} == {expansion}
    mine = [(layer.out_channels, layer.stride) for layer in variant.architecture.layers]
    assert mine == [(layer.out_channels, layer.stride) for layer in baseline.layers]
    assert f"{expansion} {kernel_size}x{kernel_size}" in variant.name
