"""One 5x5 against two 3x3: the counts, and what is made of times."""

from __future__ import annotations

import pytest

from tests.report.runs import make_latency
from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import count_module
from tvm_mnas.models.zoo.separable import build_separable
from tvm_mnas.paper.separable import LayerPair, _models, make_pair
from tvm_mnas.workflows.compare import ModelTiming


@pytest.mark.parametrize(("size", "channels"), [(14, 8), (7, 192)])
def test_equation_5_is_what_the_networks_count(size: int, channels: int) -> None:
    shape = (1, 3, size, size)
    bare = count_module(
        build_separable(channels, kernel_size=3, repeats=0, seed=0), shape
    ).mult_adds
    one = (
        count_module(build_separable(channels, kernel_size=5, repeats=1, seed=0), shape).mult_adds
        - bare
    )
    two = (
        count_module(build_separable(channels, kernel_size=3, repeats=2, seed=0), shape).mult_adds
        - bare
    )
    assert LayerPair(size=size, channels=channels).mult_adds == (one, two)


@pytest.mark.parametrize(("channels", "fewer"), [(6, False), (7, False), (8, True), (96, True)])
def test_equation_6_one_5x5_has_fewer_mult_adds_above_seven_channels(
    channels: int, fewer: bool
) -> None:
    one, two = LayerPair(size=4, channels=channels).mult_adds
    assert (one < two) == fewer


def _timed(latency_ms: float | None) -> ModelTiming:
    if latency_ms is None:
        return ModelTiming(name="net", failure="tuning: gone")
    return ModelTiming(name="net", latencies=(make_latency(latency_ms),))


@pytest.mark.parametrize(
    ("times_ms", "tuned_us"),
    [
        ((1.0, 1.5, 2.0), (500.0, 1000.0)),
        ((1.0, 0.9, 2.0), (None, 1000.0)),
        ((None, 1.5, 2.0), (None, None)),
        ((1.0, 1.5, None), (500.0, None)),
    ],
)
def test_a_layers_time_is_what_it_adds(
    times_ms: tuple[float | None, ...], tuned_us: tuple[float | None, float | None]
) -> None:
    pair = make_pair(14, 96, [_timed(time) for time in times_ms], (7.0, None))
    assert pair.tuned_us == pytest.approx(tuned_us)
    row = pair.to_json()
    assert row["untuned_us_ratio"] is None
    known = None not in tuned_us
    assert row["tuned_us_ratio"] == (pytest.approx(0.5) if known else None)


def test_both_ways_see_as_many_pixels() -> None:
    bare, one, two = _models(14, 8)
    assert bare.input_shape == one.input_shape == two.input_shape == (1, 3, 14, 14)
    kernels = [
        [module.kernel_size for module in network.modules() if hasattr(module, "kernel_size")]
        for network in (model.build(seed=0) for model in (bare, one, two))
        if network is not None
    ]
    assert kernels == [
        [(1, 1)],
        [(1, 1), (5, 5), (1, 1)],
        [(1, 1), (3, 3), (1, 1), (3, 3), (1, 1)],
    ]


def test_a_layer_without_pixels_cannot_be() -> None:
    with pytest.raises(ConfigError, match="not 0 and 8"):
        LayerPair(size=0, channels=8)
