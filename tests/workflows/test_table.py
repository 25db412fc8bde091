"""A table is built whole, goes on after an interruption with nothing measured twice, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.tables.four import SPACE, write_space
from tests.report.runs import make_latency
from tvm_mnas.errors import ConfigError, DataError, RunError
from tvm_mnas.evaluation.executors.inline import open_inline
from tvm_mnas.evaluation.executors.protocol import ExecutorRequest
from tvm_mnas.evaluation.tables.files import (
    ACCURACIES,
    LATENCIES,
    MANIFEST,
    NETWORKS,
    device_of,
    read_lines,
    read_table,
)
from tvm_mnas.space.files import load_space
from tvm_mnas.workflows.search import run_search
from tvm_mnas.workflows.table import TablePlan, architectures_of, build_table
from tvm_mnas.workflows.table_timing import DEVICE, keep_device, read_device


class Watch:
    """Interrupts a build at a stage."""

    def __init__(self, end_at: str = "", done: int = 0) -> None:
        self.end_at, self.done = end_at, done

    def stage(self, name: str, done: int, total: int) -> None:
        if name == self.end_at and done >= self.done:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Nothing to say."""


def plan_for(directory: Path) -> TablePlan:
    """A plan of two architectures, two steps of training each."""
    space = directory / "two.toml"
    space.write_text(SPACE.replace('["sepconv", "mbconv3"]', '["sepconv"]'))
    return TablePlan(
        space=str(space),
        data="embedded",
        recipe="embedded",
        steps=(1, 2),
        device="local",
        schedules_per_kernel=1,
        seed=0,
    )


def build(directory: Path, plan: TablePlan, watch: Watch) -> None:
    build_table(
        directory / "table",
        plan,
        records=directory / "records",
        executor=open_inline(ExecutorRequest(train_device="cpu")),
        observer=watch,
    )


def test_a_build_goes_on_where_it_was_and_can_be_searched(tmp_path: Path) -> None:
    plan, table = plan_for(tmp_path), tmp_path / "table"
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, plan, Watch("trainings", 3))
    trained = read_lines(table / ACCURACIES)
    assert len(trained) == 3
    with pytest.raises(RunError, match="another recipe, seed"):
        build(tmp_path, replace(plan, seed=1, recipe="finetune"), Watch())
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, plan, Watch("latencies", 2))
    timed = read_lines(table / LATENCIES)
    assert {(line["kind"], line["pass"]) for line in timed} == {("tuned", 0), ("untuned", 0)}
    assert not (table / MANIFEST).exists()
    build(tmp_path, plan, Watch())
    assert {path.name for path in table.iterdir()} == {
        *("accuracies.jsonl", "kernels.jsonl", "latencies.jsonl", "manifest.json", "networks.jsonl")
    }
    for before, name in ((trained, ACCURACIES), (timed, LATENCIES)):
        now = read_lines(table / name)
        assert len(now) == 8
        assert all(line in now for line in before), "nothing is measured twice"
    whole = read_table(table)
    assert whole.manifest.architectures == len(whole.entries) == 2
    assert whole.manifest.device.device_key == "local"
    assert all(entry.untuned[0].tuned_share == 0.0 for entry in whole.entries)
    assert all(entry.tuned[0].tuned_share == 1.0 for entry in whole.entries)
    with pytest.raises(RunError, match="holds a finished table"):
        build(tmp_path, plan, Watch())
    result = run_search(
        plan.space, evaluator=f"table:{table}", trials=8, run=tmp_path / "run", algorithm="random"
    )
    assert len(result.records) == 8
    assert result.best is not None
    assert (result.export, result.manifest) == (None, None)
    measured = {record.evaluation.architecture.notation for record in result.records}
    assert measured <= {entry.notation for entry in whole.entries}


def test_latencies_of_another_device_are_not_mixed_in(tmp_path: Path) -> None:
    latency = make_latency(0.05)
    keep_device(tmp_path, latency, cpu="a core")
    keep_device(tmp_path, make_latency(0.06), cpu="a core")
    assert read_device(tmp_path) == (device_of(latency), "a core")
    other = replace(latency, fingerprint="another")
    with pytest.raises(
        RunError, match=r"of one device in one state.*\(another\).*delete latencies"
    ):
        keep_device(tmp_path, other, cpu="a core")
    (tmp_path / DEVICE).write_text("{")
    with pytest.raises(RunError, match="delete it and latencies.jsonl"):
        read_device(tmp_path)


def test_what_cannot_be_is_told_before_anything_is_made(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    for wrong, error, words in (
        (replace(plan, space="mnasnet"), ConfigError, r"at most 20,000, and mnasnet has"),
        (replace(plan, data="imagefolder:/none"), DataError, "/none"),
    ):
        with pytest.raises(error, match=words):
            build(tmp_path, wrong, Watch())
    for steps in ((0,), (2, 1), (2, 2)):
        with pytest.raises(ConfigError, match="steps"):
            replace(plan, steps=steps)
    assert not (tmp_path / "table").exists()
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / NETWORKS).write_text("")
    with pytest.raises(RunError, match=r"holds networks.jsonl and no build.json"):
        build(tmp_path, plan, Watch())


def test_architectures_are_all_of_a_space_each_once(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    architectures = architectures_of(space)
    assert [space.encode(one) for one in architectures] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(architectures_of(load_space("fashion-mini"))) == 384
    some = architectures_of(load_space("mnasnet"), count=20, seed=3)
    assert len({one.id for one in some}) == 20
    assert some == architectures_of(load_space("mnasnet"), count=20, seed=3)
    with pytest.raises(ConfigError, match="has 4 architectures, not 5"):
        architectures_of(space, count=5)
    with pytest.raises(ConfigError, match="two architectures or more, not 1"):
        replace(plan_for(tmp_path), architectures=1)
