"""The network of an architecture: shapes, skips, initialization, folding, export."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.network import (
    ConvNorm,
    LayerModule,
    Network,
    SqueezeExcite,
    build_network,
)
from tvm_mnas.space.architecture import Architecture, Block, ConvOp, SkipOp

EVERY_OPERATION = Architecture.parse(
    "i32_c3_w1:stem16_s22:r2_k3_s11_e1_i16_o16_se0.25:r2_k3_s22_conv_i16_o24_max:"
    "r2_k5_s22_e3_i24_o24_se0.25_avg:r2_k7_s11_e3_i24_o40_se0.5_max:r2_k3_s11_conv_i40_o40_se0.25:"
    "head64:n10"
)


def settle(network: Network, seed: int = 0) -> Network:
    """Give the batch norms statistics and weights as after training, for folding to work on."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high, generator=generator)
    return network.eval()


def layer(conv_op: ConvOp, skip_op: SkipOp, *, stride: int = 1, filters: int = 8) -> LayerModule:
    block = Block(
        conv_op=conv_op,
        kernel_size=3,
        stride=stride,
        filters=filters,
        layers=1,
        expansion=3 if conv_op is ConvOp.MBCONV else 1,
        skip_op=skip_op,
    )
    architecture = Architecture(blocks=(block,), input_size=16, stem_filters=8, classes=3)
    module = build_network(architecture, zero_init_residual=True).layers[0]
    assert isinstance(module, LayerModule)
    return module


@pytest.mark.parametrize("seed", range(12))
def test_layers_have_the_sizes_that_the_architecture_states(seed: int) -> None:
    rng = random.Random(seed)
    blocks = tuple(
        Block(
            conv_op=conv_op,
            kernel_size=rng.choice((1, 3, 5, 7)),
            stride=rng.choice((1, 2)),
            filters=rng.randint(4, 24),
            layers=rng.randint(1, 2),
            expansion=3 if conv_op is ConvOp.MBCONV else 1,
            se_ratio=rng.choice((0.0, 0.25)),
            skip_op=rng.choice(list(SkipOp)),
        )
        for conv_op in (ConvOp.CONV, ConvOp.SEPCONV, ConvOp.MBCONV)
    )
    architecture = Architecture(
        blocks=blocks, input_size=rng.randint(15, 33), stem_filters=8, head_filters=16, classes=7
    )
    network = build_network(architecture).eval()
    size = architecture.input_size
    features = network.stem(torch.zeros(2, 3, size, size))
    for stated, module in zip(architecture.layers, network.layers, strict=True):
        assert features.shape == (2, stated.in_channels, stated.input_size, stated.input_size)
        features = module(features)
        assert features.shape == (2, stated.out_channels, stated.output_size, stated.output_size)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("conv_op", [ConvOp.SEPCONV, ConvOp.MBCONV])
@pytest.mark.parametrize(
    ("skip_op", "stride", "expected"),
    [
        (SkipOp.IDENTITY, 1, lambda x: x),
        (SkipOp.IDENTITY, 2, lambda x: torch.zeros_like(x[..., ::2, ::2])),
        (SkipOp.NONE, 1, torch.zeros_like),
        (SkipOp.MAX_POOL, 2, lambda x: nn.functional.max_pool2d(x, 3, 2, 1)),
        (
            SkipOp.AVG_POOL,
            1,
            lambda x: nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        ),
    ],
)
def test_skips_are_what_remains_of_a_layer_without_its_body(
    conv_op: ConvOp,
    skip_op: SkipOp,
    stride: int,
    expected,  # type: ignore[no-untyped-def]
) -> None:
    module = layer(conv_op, skip_op, stride=stride).eval()
    nn.init.zeros_(module.body.project.norm.weight)
    features = torch.randn(2, 8, 8, 8)
    assert torch.equal(module(features), expected(features))


def test_zero_initialization_only_touches_layers_with_a_skip() -> None:
    def last_norm(module: LayerModule) -> float:
        last = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        return float(last.weight.detach().abs().max())

    assert last_norm(layer(ConvOp.MBCONV, SkipOp.IDENTITY)) == 0.0
    assert last_norm(layer(ConvOp.SEPCONV, SkipOp.MAX_POOL)) == 0.0
    assert last_norm(layer(ConvOp.MBCONV, SkipOp.NONE)) == 1.0
    assert last_norm(layer(ConvOp.MBCONV, SkipOp.IDENTITY, filters=16)) == 1.0
    assert last_norm(layer(ConvOp.CONV, SkipOp.IDENTITY)) == 1.0


@pytest.mark.parametrize("zero_init", [False, True])
def test_every_weight_gets_a_gradient(zero_init: bool) -> None:
    network = build_network(EVERY_OPERATION, zero_init_residual=zero_init)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    for _ in range(2):  # a zero-initialized branch passes gradients from the second step on
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    dead = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert dead == []


def test_squeeze_excite_scales_channels() -> None:
    module = SqueezeExcite(4, 2)
    nn.init.zeros_(module.expand.weight)
    with torch.no_grad():
        module.expand.bias.copy_(torch.tensor([0.0, 100.0, -100.0, 0.0]))  # type: ignore[union-attr]
    features = torch.rand(2, 4, 3, 3)
    gates = torch.tensor([0.5, 1.0, 0.0, 0.5]).view(1, 4, 1, 1)
    torch.testing.assert_close(module(features), features * gates)


def test_weights_follow_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first = build_network(EVERY_OPERATION, seed=1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    again = build_network(EVERY_OPERATION, seed=1).state_dict()
    other = build_network(EVERY_OPERATION, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_initialization_keeps_the_published_spread() -> None:
    network = build_network(replace(EVERY_OPERATION, depth_multiplier=4.0))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
            assert float(module.weight.detach().std()) == pytest.approx(
                (2 / fan_out) ** 0.5, rel=0.1
            )
    assert float(network.classifier.bias.detach().abs().sum()) == 0.0


def test_batch_norm_settings_reach_every_norm() -> None:
    network = build_network(EVERY_OPERATION, batch_norm_momentum=0.3, batch_norm_eps=1e-4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.3, 1e-4)}
    default = build_network(EVERY_OPERATION).stem
    assert isinstance(default, ConvNorm)
    assert (default.norm.momentum, default.norm.eps) == (0.01, 1e-3)


def test_folding_keeps_the_outputs_and_the_original() -> None:
    network = settle(build_network(EVERY_OPERATION))
    network.train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert network.training
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(3, 3, 32, 32)
    expected = network.eval()(images)
    assert float(expected.detach().std()) > 0.1
    torch.testing.assert_close(folded(images), expected, atol=1e-4, rtol=1e-4)


def test_the_folded_network_exports() -> None:
    folded = fold_batch_norm(settle(build_network(EVERY_OPERATION)))
    images = torch.randn(1, 3, 32, 32)
    program = torch.export.export(folded, (images,))
    torch.testing.assert_close(program.module()(images), folded(images))


def test_channels_last_gives_the_same_outputs() -> None:
    network = settle(build_network(EVERY_OPERATION))
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    packed = network.to(memory_format=torch.channels_last)
    actual = packed(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_dropout_works_in_training_only() -> None:
    network = settle(build_network(EVERY_OPERATION, dropout=0.5))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), network(images))
    network.dropout.train()
    assert not torch.equal(network(images), network(images))
