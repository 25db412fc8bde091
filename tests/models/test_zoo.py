"""Every network of the zoo against Table 1, its authors' counts, and what the compiler asks of it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from tests.models.settled import assert_drawn_from_its_seed, settled
from tvm_mnas.commands.zoo import zoo
from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import count_module
from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.zoo.detectors import DETECTORS
from tvm_mnas.models.zoo.entry import Published, ZooEntry
from tvm_mnas.models.zoo.genotypes import CellOp, Genotype
from tvm_mnas.models.zoo.nas_cells import FactorizedReduction
from tvm_mnas.models.zoo.registry import ZOO, zoo_entry

KEYS = [entry.key for entry in ZOO]
NOTATIONS = [entry.key for entry in ZOO if entry.notation is not None]
MODULES = [entry.key for entry in ZOO if entry.notation is None]

PARAMETERS_OFF = {
    "condensenet-g4": 4_773_944,
    "condensenet-g8": 2_935_416,
    "mobilenet-v2": 3_504_872,
    "mobilenet-v2-1.4": 6_108_776,
    "mnasnet": 4_383_312,
    "mnasnet-se": 4_959_448,
    "mnasnet-65-se": 3_972_760,
}
"""Whose parameters are further from Table 1 than its rounding and one percent: the counts that they have."""
MULT_ADDS_OFF = {
    "condensenet-g4": 516_640_576,
    "condensenet-g8": 261_545_792,
    "darts-imagenet": 547_483_200,
}
"""Whose mult-adds are further from Table 1 than two percent."""


@pytest.mark.parametrize("key", [entry.key for entry in ZOO if entry.author_parameters is not None])
def test_the_parameters_are_those_of_the_authors_code(key: str) -> None:
    entry = zoo_entry(key)
    assert entry.cost.parameters == entry.author_parameters


@pytest.mark.parametrize("key", [entry.key for entry in ZOO if entry.published is not None])
def test_the_counts_are_table_1s_or_the_entry_says_why_not(key: str) -> None:
    entry = zoo_entry(key)
    assert entry.published is not None
    rounding = 50_000
    off = abs(entry.cost.parameters - entry.published.parameters)
    if off > rounding + 0.01 * entry.published.parameters:
        assert PARAMETERS_OFF.get(key) == entry.cost.parameters
        assert entry.deviation
    else:
        assert key not in PARAMETERS_OFF
    if abs(entry.cost.mult_adds / entry.published.mult_adds - 1) > 0.02:
        assert MULT_ADDS_OFF.get(key) == entry.cost.mult_adds
        assert entry.deviation
    else:
        assert key not in MULT_ADDS_OFF


# Networks of the same cells as another one here, of several hundred kernels each.
LIKE_ANOTHER = ("amoebanet-a-mobile", "pnasnet-mobile", "darts-imagenet", "darts-imagenet-v2")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=pytest.mark.slow) if key in LIKE_ANOTHER else key
        for key in (*MODULES, "mnasnet-b1", "mnasnet-a1", "mobilenet-v2-1.4")
    ],
)
def test_a_network_runs_folds_and_exports(key: str) -> None:
    entry = zoo_entry(key)
    network = settled(entry)
    images = torch.randn(entry.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images)
        exported = torch.export.export(network, (images,)).module()(images)
        # In double precision: rounding, which a hundred layers amplify, cannot hide a wrong fold.
        exact = network.double()(images.double())
        folded = fold_batch_norm(network)(images.double())
    assert expected.shape == (1, 1000)
    assert expected.std() > 1e-3
    assert (folded - exact).abs().max() <= 1e-9 * exact.abs().max()
    assert (exported - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("key", [*MODULES, "mnasnet-b1"])
def test_weights_come_from_the_seed_alone(key: str) -> None:
    assert_drawn_from_its_seed(zoo_entry(key))


@pytest.mark.parametrize("key", ["mnasnet-b1", "mnasnet-a1", "mobilenet-v2-1.4"])
def test_a_module_is_counted_as_its_notation(key: str) -> None:
    entry = zoo_entry(key)
    network = entry.build()
    assert count_module(network, entry.input_shape) == entry.cost
    assert network.training
    assert next(network.parameters()).device.type == "cpu"


@pytest.mark.parametrize(("key", "printed"), [("condensenet-g4", 529), ("condensenet-g8", 274)])
def test_condensenet_with_its_activations_counted_is_as_published(key: str, printed: int) -> None:
    """Its authors count an operation for each input of a ReLU and of a pooling, too."""
    entry = zoo_entry(key)
    network = entry.build().eval()
    others = 0

    def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal others
        others += inputs[0].numel()

    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(entry.input_shape))
    assert round((entry.cost.mult_adds + others) / 1e6) == printed


def test_counting_leaves_out_what_is_not_trained() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, (1, 3), groups=2), nn.Flatten(), nn.Linear(6 * 15, 7))
    network[0].weight.requires_grad_(False)
    cost = count_module(network, (1, 4, 5, 5))
    assert cost.parameters == 6 + 90 * 7 + 7
    assert cost.mult_adds == 6 * 15 * 2 * 3 + 90 * 7


def test_an_unknown_key_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="mnasnet-b2.*nasnet-a-mobile.*tvm-mnas zoo"):
        zoo_entry("mnasnet-b2")


def test_json_has_every_network_with_its_counts(capsys: pytest.CaptureFixture[str]) -> None:
    zoo(as_json=True)
    printed = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(printed) == [*KEYS, *(entry.key for entry in DETECTORS)]
    assert len(set(KEYS)) == len(KEYS)
    assert printed["mnasnet-b1"]["parameters"] == 4_383_312
    assert printed["mnasnet"]["published_parameters"] == 4_200_000
    assert printed["mnasnet-a1"]["published_mult_adds"] is None


def test_the_table_shows_counts_beside_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    zoo()
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("mnasnet-92 ")
    )
    assert line.split()[2:6] == ["4.43M", "4.4M", "384M", "388M"]


def test_an_entry_is_a_notation_or_a_builder_and_names_its_source() -> None:
    with pytest.raises(ConfigError, match="notation or a builder"):
        ZooEntry(key="x", name="X")
    with pytest.raises(ConfigError, match="names the code"):
        ZooEntry(key="x", name="X", notation="n", author_parameters=3)
    with pytest.raises(ConfigError, match="top-1 is at most top-5"):
        Published(parameters=1, mult_adds=1, top1_percent=90, top5_percent=80)


@pytest.mark.parametrize(
    ("steps", "outputs"),
    [
        (((CellOp.SKIP, 0, CellOp.SKIP, 2),), (2,)),
        (((CellOp.SKIP, -1, CellOp.SKIP, 1),), (2,)),
        (((CellOp.SKIP, 0, CellOp.SKIP, 1),), (3,)),
        (((CellOp.SKIP, 0, CellOp.SKIP, 1),), ()),
    ],
)
def test_a_genotype_uses_states_that_it_has(
    steps: tuple[tuple[CellOp, int, CellOp, int], ...], outputs: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match="states"):
        Genotype(steps=steps, outputs=outputs)


def test_the_factorized_reduction_reads_even_and_odd_pixels() -> None:
    reduction = FactorizedReduction(1, 2).eval()
    for half in (reduction.first, reduction.second):
        nn.init.ones_(half[0].weight)
    for size in (6, 7):
        image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
        with torch.no_grad():
            output = reduction(image) * (1 + reduction.first[1].eps) ** 0.5
        even, odd = image[:, :, ::2, ::2], image[:, :, 1::2, 1::2]
        padding = even.shape[-1] - odd.shape[-1]
        expected = torch.cat([even, nn.functional.pad(odd, (0, padding, 0, padding))], 1)
        assert torch.allclose(output, expected)
