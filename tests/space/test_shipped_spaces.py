"""Every space that ships, whichever files there are: its size by hand, ten thousand samples, and a way to TVM."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tvm_mnas.compiler.lowering import lower_network
from tvm_mnas.devices.host import detect_target
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import read_space
from tvm_mnas.space.kernels import architecture_kernels, count_kernels

FILES = sorted((Path(__file__).resolve().parents[2] / "search_space").glob("*.toml"))
SAMPLES = 10_000

# Per block: operations x kernels x skips x squeezes, times filters times layers. What scaling leaves fewer of, and
# layers of which there would be none, are the reason for every number that is not the plain product.
_PAPER = [2 * 2, 2 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 2]
BY_HAND = {
    "mnasnet": [4 * 2 * 4 * rest for rest in _PAPER],
    "mnasnet-se": [4 * 2 * 4 * 2 * rest for rest in _PAPER],
    "mobilenetv2-like": [1, *(2 * 3 * rest for rest in _PAPER[1:])],
    "mcu-96": [3 * 2 * rest for rest in (2 * 2, 2 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 3)],
    "quickstart": [3 * 2 * rest for rest in (1 * 2, 1 * 3, 1 * 3, 2 * 3)],
}
DISTINCT = {
    "mnasnet": 679,
    "mnasnet-se": 919,
    "mobilenetv2-like": 310,
    "mcu-96": 288,
    "quickstart": 84,
}
"""Distinct kernels of each whole space: a change here changes what a search costs."""


def name_of(path: Path) -> str:
    return path.stem


def test_each_is_worked_out_by_hand() -> None:
    assert set(BY_HAND) == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_its_size_is_the_product_by_hand(path: Path) -> None:
    size = 1
    for choices in BY_HAND[path.stem]:
        size *= choices
    assert read_space(path).size == size
    assert read_space(path).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_its_header_names_a_source_and_a_size(path: Path) -> None:
    header = [line for line in path.read_text().split("\nname = ")[0].splitlines() if line]
    assert all(line.startswith("#") for line in header)
    text = " ".join(header)
    assert "arXiv" in text or "Not from the paper" in text
    assert "Size:" in text


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_ten_thousand_samples_are_valid_round_trip_and_share_their_kernels(path: Path) -> None:
    space = read_space(path)
    whole = {kernel for _, kernels in count_kernels(space).parts for kernel in kernels}
    rng = random.Random(7)
    met = set()
    for _ in range(SAMPLES):
        tokens = space.sample(rng)
        architecture = space.decode(tokens)
        assert space.encode(architecture) == tokens
        assert Architecture.parse(architecture.notation) == architecture
        met.update(architecture_kernels(architecture))
    assert met <= whole
    # Thousands of networks of a hundred layers and more have no more kernels than these.
    assert len(met) > 0.5 * len(whole)
    assert len(whole) == DISTINCT[path.stem]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_sample_is_built_and_lowered(path: Path) -> None:
    space = read_space(path)
    architecture = space.decode(space.sample(random.Random(3)))
    shape = (1, architecture.input_channels, architecture.input_size, architecture.input_size)
    network = build_network(architecture, seed=0).eval()
    with torch.no_grad():
        logits = network(torch.ones(shape))
    assert logits.shape == (1, architecture.classes)
    assert torch.isfinite(logits).all()
    kernels = lower_network(network, shape, detect_target(threads=1)).kernels
    assert len(kernels) > len(space.blocks)
