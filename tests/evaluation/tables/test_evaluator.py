"""Searches on a table: in its space alone, with the noise of what was measured, and a judge that knows all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.tables.four import write_space, write_table
from tests.report.runs import make_latency
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.results import EvaluatorRequest, Judging, Replicating
from tvm_mnas.evaluation.tables.evaluator import TableEvaluator, open_table, settings_of_table
from tvm_mnas.evaluation.tables.files import read_table
from tvm_mnas.evaluation.tables.table import (
    DeviceSpeed,
    accuracy_spread,
    latency_spread,
    spread_of_pairs,
)
from tvm_mnas.space.files import load_space

Open = Callable[..., TableEvaluator]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    space = write_space(tmp_path)
    table = write_table(tmp_path, space)

    def make(**settings: object) -> TableEvaluator:
        config = SearchConfig(**settings)  # type: ignore[arg-type]
        return open_table(EvaluatorRequest(config, space), text=str(table))

    return make


def test_an_evaluation_is_one_training_and_one_latency_of_the_table(opened: Open) -> None:
    evaluator = opened()
    assert isinstance(evaluator, Replicating)
    assert isinstance(evaluator, Judging)
    architectures = _architectures(evaluator)
    firsts = dict(evaluator.evaluate(architectures))
    seconds = dict(evaluator.train_again(architectures))
    for k, architecture in enumerate(architectures):
        entry = evaluator.table.entry(architecture)
        first, second = firsts[k].accuracy, seconds[k]
        assert first is not None and second is not None
        assert {first, second} == set(entry.accuracies[60]), "the fewest steps"
        assert firsts[k].latency in entry.tuned
        assert firsts[k].effort.kernels_us == 2.0 + 3.0 * (k + 1)
        accuracy, latency_ms = evaluator.judge(architecture)
        assert accuracy == pytest.approx(0.655 + 0.1 * k)
        assert latency_ms == pytest.approx(0.0101 * (k + 1))


def test_the_seed_decides_what_is_drawn_and_nothing_else_does(opened: Open) -> None:
    def drawn(seed: int) -> list[object]:
        evaluator = opened(seed=seed)
        found = dict(evaluator.evaluate(_architectures(evaluator)))
        return [(found[k].accuracy, found[k].latency) for k in sorted(found)]

    assert drawn(0) == drawn(0)
    assert len({str(drawn(seed)) for seed in range(12)}) > 6


def test_the_steps_are_those_asked_for(opened: Open) -> None:
    evaluator = opened(train_steps=240)
    ((_, evaluation),) = evaluator.evaluate(_architectures(evaluator)[:1])
    assert evaluation.accuracy is not None
    assert evaluation.accuracy.steps == 240
    with pytest.raises(
        ConfigError, match=r"trainings of 60, 240 steps, and none of 61.*--train-steps 60"
    ):
        opened(train_steps=61)


def test_another_space_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path, write_space(tmp_path))
    with pytest.raises(
        ConfigError, match=r"is of the space four.*search is in quickstart.*--space four"
    ):
        open_table(EvaluatorRequest(SearchConfig(), load_space("quickstart")), text=str(table))
    evaluator = TableEvaluator(read_table(table), 60, 0)
    other = load_space("quickstart")
    with pytest.raises(ConfigError, match="is none of them"):
        list(evaluator.evaluate([other.decode([0] * len(other.decisions))]))


def test_a_table_of_latencies_alone_is_read_and_not_searched(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    table = write_table(tmp_path, space, budgets=())
    assert read_table(table).budgets == ()
    assert len(read_table(table).entries[0].tuned) == 2
    with pytest.raises(ConfigError, match="each with 0 trainings; build one that is whole"):
        open_table(EvaluatorRequest(SearchConfig(), space), text=str(table))


def test_a_table_tells_the_settings_that_a_search_starts_from(tmp_path: Path) -> None:
    table = write_table(tmp_path, write_space(tmp_path))
    assert settings_of_table(str(table)) == {"space": "four", "target_latency_ms": 0.025}


def test_spread_and_noise_are_what_pairs_tell(tmp_path: Path) -> None:
    found = spread_of_pairs([(1.0, 3.0), (5.0, 3.0), (10.0, 12.0)])
    assert found.mean == pytest.approx((2 + 4 + 11) / 3)
    assert found.noise == pytest.approx(2**0.5)
    assert found.spread == pytest.approx(4.7258, rel=1e-4)
    table = read_table(write_table(tmp_path, write_space(tmp_path)))
    assert accuracy_spread(table.entries, 60).noise == pytest.approx(0.01 / 2**0.5 * 100)
    assert accuracy_spread(table.entries, 60).between == pytest.approx(1.0)
    assert latency_spread(table.entries, "tuned").ratio > 10


def test_a_latency_is_corrected_by_the_speed_of_its_moment(tmp_path: Path) -> None:
    entries = list(read_table(write_table(tmp_path, write_space(tmp_path))).entries)
    usual, slow = make_latency(0.05, reference_change=0.0), make_latency(0.06, reference_change=0.2)
    entries[0] = replace(entries[0], tuned=(usual, slow), untuned=(usual, usual))
    speed = DeviceSpeed.of(entries)
    assert speed.reference_ms == pytest.approx(0.2)
    assert speed.corrected_ms(slow) == pytest.approx(0.05)
    assert speed.corrected_ms(make_latency(0.06)) == 0.06, "nothing is known of its moment"
    assert DeviceSpeed.of(entries[1:]).corrected_ms(slow) == 0.06


def _architectures(evaluator: TableEvaluator) -> list[object]:
    from tvm_mnas.space.candidate import parse_candidate

    return [parse_candidate(entry.notation) for entry in evaluator.table.entries]
