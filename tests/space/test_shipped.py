"""Every space file that ships: its size by hand, 10,000 of its networks, one of them built and compiled."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
import torch

from tests.compiler.targets import HASWELL
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.models.cost import count_cost
from tvm_mnas.models.network import build_network
from tvm_mnas.models.zoo.registry import zoo_entry
from tvm_mnas.resources import resource_directory
from tvm_mnas.space.architecture import Architecture, Layer
from tvm_mnas.space.files import load_space
from tvm_mnas.space.kernels import KernelShape, architecture_kernels, count_kernels

NAMES = sorted(path.stem for path in resource_directory("search_space").glob("*.toml"))

# Per block: operations * kernels * skips * squeezes * filters * layers.
SIZES = {
    "drawn-160": 2 * (3 * 2 * 2 * 2) ** 3,
    "mnasnet": (4 * 2 * 4 * 1 * 2 * 2)
    * (4 * 2 * 4 * 1 * 2 * 3)
    * (4 * 2 * 4 * 1 * 3 * 3) ** 4
    * (4 * 2 * 4 * 1 * 3 * 2),
    "mnasnet-se": (4 * 2 * 4 * 2 * 2 * 2)
    * (4 * 2 * 4 * 2 * 2 * 3)
    * (4 * 2 * 4 * 2 * 3 * 3) ** 4
    * (4 * 2 * 4 * 2 * 3 * 2),
    "mobilenetv2-like": (1 * 2 * 1 * 1 * 2 * 2)
    * (2 * 2 * 1 * 1 * 2 * 3)
    * (2 * 2 * 1 * 1 * 3 * 3) ** 4
    * (2 * 2 * 1 * 1 * 3 * 2),
    "mcu-96": (2 * 2 * 2 * 1 * 2 * 2) * (2 * 2 * 2 * 1 * 3 * 3) ** 3 * (2 * 2 * 2 * 1 * 3 * 2),
    "quickstart": (3 * 2 * 1 * 1 * 1 * 2)
    * (3 * 2 * 1 * 1 * 1 * 3)
    * (3 * 2 * 1 * 1 * 1 * 3)
    * (3 * 2 * 1 * 1 * 2 * 3),
    "fashion-mini": (2 * 2 * 1 * 1 * 1 * 1) * (3 * 2 * 2 * 1 * 2 * 1) * (2 * 1 * 1 * 1 * 2 * 1),
}
FINGERPRINTS = {"mnasnet": "a3472a044847fdde", "quickstart": "a4db6ecdffb33c18"}
"""Those that runs have been made with: another one would make their records strangers."""

SAMPLES = 10_000
FOUND = 0.9
"""The share of a space's distinct kernels that so many random networks have at least."""


def _sample(name: str, seed: int) -> Architecture:
    """The shallowest of a few random networks, at 32 pixels."""
    space, rng = load_space(name), random.Random(seed)
    drawn = [space.decode(space.sample(rng)) for _ in range(500)]
    return replace(min(drawn, key=lambda each: len(each.layers)), input_size=32)


def test_every_space_that_ships_has_its_size_worked_out_by_hand() -> None:
    assert sorted(SIZES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_size_is_the_product_by_hand_and_stands_in_the_header(name: str) -> None:
    assert load_space(name).size == SIZES[name]
    path = resource_directory("search_space") / f"{name}.toml"
    header = path.read_text(encoding="utf-8").partition("\nname = ")[0]
    assert f"{SIZES[name]:,}" in header
    assert load_space(name).name == name


@pytest.mark.parametrize(("name", "fingerprint"), FINGERPRINTS.items())
def test_a_space_that_runs_were_made_with_stays_as_it_is(name: str, fingerprint: str) -> None:
    assert load_space(name).fingerprint == fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_networks_are_valid_and_read_back(name: str) -> None:
    space, rng = load_space(name), random.Random(11)
    layers: set[Layer] = set()
    kernels: set[KernelShape] = set()
    ids: dict[str, str] = {}
    for _ in range(SAMPLES):
        tokens = space.sample(rng)
        architecture = space.decode(tokens)
        notation = architecture.notation
        again = Architecture.parse(notation)
        assert again == architecture
        assert again.notation == notation
        assert space.encode(again) == tokens
        assert architecture.layers[-1].output_size >= 1
        if not layers.issuperset(architecture.layers):
            layers.update(architecture.layers)
            kernels.update(architecture_kernels(architecture))
        ids[notation] = architecture.id
    everything = count_kernels(space).distinct
    assert kernels <= everything
    assert FOUND * len(everything) < len(kernels)
    # Some notations mean one network, as where a skip never applies; never does one mean two.
    assert len(set(ids.values())) <= len(ids) <= min(SAMPLES, space.size)
    assert len(set(ids.values())) > 0.5 * min(SAMPLES, space.size)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_space_runs_in_torch(name: str) -> None:
    architecture = _sample(name, seed=1)
    network = build_network(architecture, seed=1).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = network(images)
    assert logits.shape == (2, architecture.classes)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_space_is_lowered_to_the_kernels_that_were_counted(name: str) -> None:
    architecture = _sample(name, seed=2)
    network = build_network(architecture, seed=2).eval()
    lowered = lower_network(network, (1, 3, 32, 32), HASWELL)
    # A dense layer is a product of matrices, those of squeezes are convolutions of a pixel. A kernel may have several.
    layers = {kernel: len(re.findall("conv2d|matmul", kernel.name)) for kernel in lowered.kernels}
    products = [kernel for kernel, count in layers.items() if count]
    counted = [k for k in architecture_kernels(architecture) if not k.operation.endswith("pool")]
    assert sum(kernel.calls * layers[kernel] for kernel in products) == len(counted)
    # Two operations for a mult-add, and those on channels that fill up vectors.
    assert sum(k.flops * k.calls for k in products) >= 2 * count_cost(architecture).mult_adds


def test_mobilenet_v2_is_in_the_space_like_it() -> None:
    space = load_space("mobilenetv2-like")
    notation = zoo_entry("mobilenet-v2").notation
    assert notation is not None
    # In blocks of one layer that change channels no skip applies, by whatever name.
    architecture = Architecture.parse(notation.replace("_noskip", ""))
    assert architecture.id == Architecture.parse(notation).id
    assert space.decode(space.encode(architecture)) == architecture


def test_the_microcontrollers_space_has_the_benchmarks_network_up_to_one_layer() -> None:
    blocks = "".join(
        f":r{layers}_k3_s{stride}{stride}_e1_o{filters}_noskip"
        for layers, stride, filters in (
            (1, 1, 16),
            (2, 2, 32),
            (2, 2, 64),
            (6, 2, 128),
            (1, 2, 256),
        )
    )
    architecture = Architecture.parse(f"i96_c3_w1:stem8_s22{blocks}:head256:n2")
    space = load_space("mcu-96")
    assert space.decode(space.encode(architecture)) == architecture
    # github.com/mlcommons/tiny's network has 221,794. Of these each channel of its 27 convolutions has a bias, which
    # does nothing before a batch norm, and a mean and a variance, which are not trained; and its last depthwise
    # convolution is not in a space whose head is pointwise.
    pointwise = [16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    depthwise = [8, *pointwise[:-1]]
    channels = 8 + sum(pointwise) + sum(depthwise)
    last_depthwise = 3 * 3 * 256 + 2 * 256
    assert count_cost(architecture).parameters == 221_794 - 3 * channels - last_depthwise
