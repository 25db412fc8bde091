"""Stand-ins for latency: at the right scale, judged by their order, and by what they say of each operation."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.evaluation.tables.four import SPACE, write_space, write_table
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.tables.files import read_table
from tvm_mnas.evaluation.tables.table import EvaluationTable
from tvm_mnas.paper.stand_ins import STAND_INS, agreements, operation_effects, stand_ins_ms
from tvm_mnas.space.architecture import Architecture, ConvOp
from tvm_mnas.space.files import parse_space

MANY = SPACE + SPACE[SPACE.index("[[blocks]]") :].replace("resolution = 8", "resolution = 4")
MANY = MANY.replace('skip_op = ["none"]', 'skip_op = ["none", "identity"]')


def by_operation(_: int, architecture: Architecture) -> float:
    """A time to which a 5x5 adds half, an inverted bottleneck as much again, and a skip nothing."""
    time_ms = 0.01
    for block in architecture.blocks:
        time_ms *= 1.5 if block.kernel_size == 5 else 1.0
        time_ms *= 2.0 if block.conv_op is ConvOp.MBCONV else 1.0
    return time_ms


def write_many(directory: Path) -> Path:
    """Write a table of 64 architectures whose times follow from their operations."""
    space = parse_space(MANY.replace('"four"', '"many"'), directory / "many.toml")
    (directory / "many.toml").write_text(MANY)
    return write_table(directory, space, latency_ms=by_operation, step=0.005)


@pytest.fixture
def table(tmp_path: Path) -> EvaluationTable:
    return read_table(write_many(tmp_path))


def test_every_stand_in_has_the_mean_of_the_tuned_latencies(table: EvaluationTable) -> None:
    values = stand_ins_ms(table, seed=0)
    assert tuple(values) == STAND_INS
    mean = statistics.fmean(values["tuned"].values())
    for name, times in values.items():
        assert set(times) == {entry.notation for entry in table.entries}
        assert statistics.fmean(times.values()) == pytest.approx(mean), name
    counted = {entry.notation: entry.mult_adds for entry in table.entries}
    ratios = {times / counted[one] for one, times in values["mult-adds"].items()}
    assert max(ratios) == pytest.approx(min(ratios)), "one factor for all"


def test_a_seed_draws_passes_and_no_more(table: EvaluationTable) -> None:
    one, same, other = (stand_ins_ms(table, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["tuned"] != other["tuned"]
    for entry in table.entries:
        found = one["tuned"][entry.notation]
        assert found in [table.speed.corrected_ms(latency) for latency in entry.tuned]


def test_order_and_error_are_those_against_the_tuned_latency(table: EvaluationTable) -> None:
    of = {one.name: one for one in agreements(table, seed=0)}
    assert of["tuned"].spearman > 0.95
    assert of["tuned"].error_percent == pytest.approx(1.0, abs=0.1), "half of the passes' 2%"
    # Untuned is ten times the tuned one throughout: nothing is left once it has the same scale.
    assert of["untuned"].error_percent < 2.0
    assert of["mult-adds"].error_percent > 5.0


def test_effects_are_what_the_times_were_made_of(table: EvaluationTable) -> None:
    of = {(one.name, one.change): one for one in operation_effects(table, seed=0)}
    changes = {change for _, change in of}
    assert changes == {
        "kernel_size 3 -> 5",
        "conv_op sepconv -> mbconv3",
        "skip_op none -> identity",
    }
    for change, percent in (
        ("kernel_size 3 -> 5", 50.0),
        ("conv_op sepconv -> mbconv3", 100.0),
        ("skip_op none -> identity", 0.0),
    ):
        found = of["tuned", change]
        # The passes differ by 2%, and each network has one of them.
        assert found.percent == pytest.approx(percent, abs=2.0)
        assert 0 < found.error_percent < 1.0
    assert of["mult-adds", "skip_op none -> identity"].percent == pytest.approx(0.0, abs=1e-6)
    assert of["mult-adds", "kernel_size 3 -> 5"].percent < 50.0


def test_a_table_of_few_networks_is_refused(tmp_path: Path) -> None:
    few = read_table(write_table(tmp_path, write_space(tmp_path)))
    with pytest.raises(ConfigError, match="fitted on 16 networks, and the table four has 4"):
        stand_ins_ms(few, seed=0)
