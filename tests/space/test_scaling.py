"""Widths and input sizes, against what was published of MobileNetV2's."""

from __future__ import annotations

import pytest

from tvm_mnas.errors import ConfigError, SpaceError
from tvm_mnas.models.cost import count_cost
from tvm_mnas.models.zoo.registry import zoo_entry
from tvm_mnas.search.model import find_model
from tvm_mnas.space.architecture import Architecture, Layer
from tvm_mnas.space.scaling import Scale, scaled

# https://github.com/tensorflow/models, research/slim/nets/mobilenet/README.md: multiplier, size, millions of
# mult-adds, millions of parameters. These are without batch norms.
MOBILENET_V2 = [
    (1.4, 224, 582, 6.06),
    (1.3, 224, 509, 5.34),
    (1.0, 224, 300, 3.47),
    (1.0, 192, 221, 3.47),
    (1.0, 160, 154, 3.47),
    (1.0, 128, 99, 3.47),
    (1.0, 96, 56, 3.47),
    (0.75, 224, 209, 2.61),
    (0.75, 192, 153, 2.61),
    (0.75, 160, 107, 2.61),
    (0.75, 128, 69, 2.61),
    (0.75, 96, 39, 2.61),
    (0.5, 224, 97, 1.95),
    (0.5, 192, 71, 1.95),
    (0.5, 160, 50, 1.95),
    (0.5, 128, 32, 1.95),
    (0.5, 96, 18, 1.95),
    (0.35, 224, 59, 1.66),
    (0.35, 192, 43, 1.66),
    (0.35, 160, 30, 1.66),
    (0.35, 128, 20, 1.66),
    (0.35, 96, 11, 1.66),
]


def norms(architecture: Architecture) -> int:
    """Parameters of the batch norms, two a channel: stem, head, and in each layer all of its convolutions."""

    def channels(layer: Layer) -> int:
        expansion = layer.expanded_channels if layer.conv_op.value == "mbconv" else 0
        return expansion + layer.expanded_channels + layer.out_channels

    inner = sum(channels(layer) for layer in architecture.layers)
    return 2 * (architecture.stem_channels + inner + architecture.head_filters)


@pytest.mark.parametrize(("multiplier", "size", "mult_adds", "parameters"), MOBILENET_V2)
def test_mobilenet_v2_counts_as_published_at_every_scale(
    multiplier: float, size: int, mult_adds: int, parameters: float
) -> None:
    architecture = find_model(f"mobilenet-v2@{multiplier}x{size}").architecture
    assert architecture is not None
    cost = count_cost(architecture)
    assert (cost.parameters - norms(architecture)) / 1e6 == pytest.approx(parameters, abs=0.0051)
    # Some are cut off there, not rounded: 18.9 stands as 18.
    assert -0.5 < cost.mult_adds / 1e6 - mult_adds < 1


@pytest.mark.parametrize("size", [96, 128, 160, 192, 224])
@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_mnasnet_keeps_its_layers_and_its_head(multiplier: float, size: int) -> None:
    entry = zoo_entry("mnasnet")
    assert entry.architecture is not None
    small = scaled(entry.architecture, Scale(multiplier, size))
    assert small.head_filters == 1280
    assert small.input_size == size
    assert len(small.layers) == len(entry.architecture.layers)
    for layer, full in zip(small.layers, entry.architecture.layers, strict=True):
        assert layer.out_channels % 8 == 0
        assert layer.out_channels >= max(8, 0.9 * multiplier * full.out_channels)
        assert layer.kernel_size == full.kernel_size
    assert Architecture.parse(small.notation) == small


def test_one_point_four_times_mobilenet_v2_is_the_zoos_own() -> None:
    architecture = find_model("mobilenet-v2@1.4").architecture
    own = zoo_entry("mobilenet-v2-1.4").architecture
    assert architecture is not None and own is not None
    assert architecture.id == own.id


@pytest.mark.parametrize("text", ["0.5", "1", "0.75x160", "1.4x96"])
def test_a_scale_reads_as_it_is_written(text: str) -> None:
    assert str(Scale.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "such as 0.5 or 0.5x160, not ''"),
        ("x160", "not 'x160'"),
        ("0.5x", "not '0.5x'"),
        ("0.01", "in 0.1..4"),
        ("9", "in 0.1..4"),
        ("1x8", "in 32..1024"),
    ],
)
def test_a_wrong_scale_names_the_rule(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message.replace(".", r"\.")):
        Scale.parse(text)


def test_only_a_sequence_of_blocks_has_a_scale() -> None:
    with pytest.raises(ConfigError, match="'mobilenet-v1' is none; type mobilenet-v1 without @0.5"):
        find_model("mobilenet-v1@0.5")
    with pytest.raises(ConfigError, match="'mobilenet' is no network of the zoo"):
        find_model("mobilenet@0.5")
