"""Counts of parameters and mult-adds against the published networks and against torch."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tvm_mnas.models.cost import Cost, count_cost
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture, Block, ConvOp, SkipOp

MNASNET_B1 = (
    "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r3_k3_s22_e3_i16_o24:r3_k5_s22_e3_i24_o40:"
    "r3_k5_s22_e6_i40_o80:r2_k3_s11_e6_i80_o96:r4_k5_s22_e6_i96_o192:r1_k3_s11_e6_i192_o320_noskip:"
    "head1280:n1000"
)
MNASNET_A1 = (
    "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r2_k3_s22_e6_i16_o24:"
    "r3_k5_s22_e3_i24_o40_se0.25:r4_k3_s22_e6_i40_o80:r2_k3_s11_e6_i80_o112_se0.25:"
    "r3_k5_s22_e6_i112_o160_se0.25:r1_k3_s11_e6_i160_o320:head1280:n1000"
)
MNASNET_SMALL = (
    "i224_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:r1_k3_s22_e3_i8_o16:r2_k3_s22_e6_i16_o16:"
    "r4_k5_s22_e6_i16_o32_se0.25:r3_k3_s11_e6_i32_o32_se0.25:r3_k5_s22_e6_i32_o88_se0.25:"
    "r1_k3_s11_e6_i88_o144:head1280:n1000"
)


def random_architecture(rng: random.Random, *, input_size: int | None = None) -> Architecture:
    """An architecture from a space far wider than any shipped one, with odd sizes and widths."""
    blocks = []
    for _ in range(rng.randint(1, 4)):
        conv_op = rng.choice(list(ConvOp))
        blocks.append(
            Block(
                conv_op=conv_op,
                kernel_size=rng.choice((1, 3, 5, 7)),
                stride=rng.choice((1, 2)),
                filters=rng.randint(1, 40),
                layers=rng.randint(1, 3),
                expansion=rng.choice((2, 3, 6)) if conv_op is ConvOp.MBCONV else 1,
                se_ratio=rng.choice((0.0, 0.25, 0.5)),
                skip_op=rng.choice(list(SkipOp)),
            )
        )
    return Architecture(
        blocks=tuple(blocks),
        input_size=input_size or rng.randint(17, 40),
        input_channels=rng.choice((1, 3)),
        stem_filters=rng.randint(3, 16),
        stem_stride=rng.choice((1, 2)),
        head_filters=rng.randint(5, 70),
        classes=rng.randint(2, 30),
        depth_multiplier=rng.choice((0.35, 1.0, 1.4)),
    )


def torch_cost(architecture: Architecture) -> Cost:
    network = build_network(architecture).eval()
    size = architecture.input_size
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, architecture.input_channels, size, size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, mult_adds=counter.get_total_flops() // 2)


@pytest.mark.parametrize(
    ("notation", "parameters", "millions"),
    [
        (MNASNET_B1, 4_383_312, 314.4),
        (MNASNET_A1, 3_887_038, 311.6),
        (MNASNET_SMALL, 2_030_264, 68.3),
    ],
    ids=["b1", "a1", "small"],
)
def test_published_networks(notation: str, parameters: int, millions: float) -> None:
    cost = count_cost(Architecture.parse(notation))
    assert cost.parameters == parameters
    assert round(cost.mult_adds / 1e6, 1) == millions


@pytest.mark.parametrize("seed", range(60))
def test_random_architectures_cost_what_torch_counts(seed: int) -> None:
    architecture = random_architecture(random.Random(seed))
    assert count_cost(architecture) == torch_cost(architecture)
