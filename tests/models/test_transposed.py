"""A transposed convolution as a convolution computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tvm_mnas.models.transposed import SubpixelConvolution, replace_transposed

SETTINGS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 5, "stride": 3, "padding": 2},
    {"kernel_size": (3, 5), "stride": 2, "padding": (0, 2), "output_padding": (0, 1)},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 4, "stride": 4},
    {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_computes_the_same(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 8, **settings).eval()  # type: ignore[arg-type]
    network = replace_transposed(nn.Sequential(nn.Conv2d(3, 4, 1), layer)).eval()
    features = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        expected = layer(network[0](features))
        found = network(features)
    assert isinstance(network[1], SubpixelConvolution)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "stride": (1, 2)},
        {"kernel_size": 3, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
    ],
    ids=str,
)
def test_what_cannot_be_said_so_is_left_alone(settings: dict[str, object]) -> None:
    layer = nn.ConvTranspose2d(4, 8, **settings)  # type: ignore[arg-type]
    assert replace_transposed(nn.Sequential(layer))[0] is layer  # type: ignore[index]
