"""A search from Python, in a space of its own: what it returns, what resuming it returns, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from tvm_mnas.errors import (
    ConfigError,
    DataError,
    ProfileError,
    RecordsError,
    RunError,
    SpaceError,
    TrainingError,
    UsageError,
)
from tvm_mnas.evaluation.manifest import read_manifest
from tvm_mnas.evaluation.trainers import TrainTask
from tvm_mnas.search.result import FrontPoint, SearchResult
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.network_space import NetworkSpace
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows.search import resume_search, run_search
from tvm_mnas.workflows.training.side_by_side import SideBySide
from tvm_mnas.workflows.training.transfer import TransferOptions, Winner, transfer

TRIALS = 4
WIDTHS = (4, 8, 12, 16)


def build(choices: Mapping[str, Any]) -> nn.Module:
    """Return one convolution and a classifier: images (N,3,8,8) -> logits (N,10)."""
    width = choices["width"]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *head)


SPACE = NetworkSpace(
    "widths", {"width": WIDTHS, "spare": (0, 1)}, build, image_shape=(1, 3, 8, 8), classes=10
)


def train(task: TrainTask, report: Callable[[int], None]) -> Accuracy:
    """Train nothing: the wider, the more accurate, and one width always fails."""
    network = task.build()
    width = network[0].out_channels
    if width == WIDTHS[1]:
        raise TrainingError(f"a width of {width} diverges")
    report(task.steps)
    return task.finish(network, top1=width / 100, samples=100)


class Interrupted(BaseException):
    """Somebody ended the program."""


class Observer:
    """Remembers the trials that finish, and ends the search after `last` of them."""

    def __init__(self, *, last: int | None = None) -> None:
        self.numbers: list[int] = []
        self._last = last

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def trial(self, record: TrialRecord) -> None:
        self.numbers.append(record.number)
        if len(self.numbers) == self._last:
            raise Interrupted


@dataclass(frozen=True)
class Found:
    """One search that ran through, and one of the same settings that was interrupted and resumed."""

    directory: Path
    whole: SearchResult
    resumed: SearchResult
    before: list[int]
    after: list[int]


def search(directory: Path, run: str, observer: Observer, **settings: Any) -> SearchResult:
    """Search by an algorithm whose first proposals depend on no latency, so that two searches are alike."""
    return run_search(
        SPACE,
        target_latency_ms=0.02,
        trainer=train,
        algorithm="random",
        trials=settings.get("trials", TRIALS),
        batch=2,
        seed=1,
        schedules_per_kernel=1,
        max_untuned_share=0.99,
        finalists=1,
        final_steps=1,
        jobs=1,
        records=str(directory / "records"),
        run=directory / run,
        observer=observer,
    )


def width_of(notation: str) -> int:
    return int(dict(parse_candidate(notation).choices)["width"])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    directory = tmp_path_factory.mktemp("searches")
    before, after = Observer(last=1), Observer()
    with pytest.raises(Interrupted):
        search(directory, "resumed", before, trials=TRIALS - 1)
    resumed = resume_search(directory / "resumed", trials=TRIALS, observer=after)
    whole = search(directory, "whole", Observer())
    return Found(directory, whole, resumed, before.numbers, after.numbers)


def test_a_search_returns_every_trial_and_the_exported_best(found: Found) -> None:
    result = found.whole
    assert result.run == found.directory / "whole"
    assert [record.number for record in result.records] == list(range(TRIALS))
    for record in result.records:
        width = width_of(record.evaluation.architecture.notation)
        if width == WIDTHS[1]:
            assert record.reward is None
            assert record.evaluation.failure is not None
            assert record.evaluation.failure.error == "TrainingError"
        else:
            assert record.evaluation.accuracy is not None
            assert record.evaluation.accuracy.top1 == width / 100
            assert record.evaluation.latency is not None
            assert record.evaluation.latency.device_key == "local"
            assert record.reward is not None
    assert result.best is not None and result.export is not None and result.manifest is not None
    assert result.best.reward == max(r.reward for r in result.records if r.reward is not None)
    assert (result.export / "net.so").is_file()
    assert result.manifest.architecture == result.best.evaluation.architecture.notation


def test_the_front_is_what_no_other_beats(found: Found) -> None:
    front = found.whole.pareto_front
    assert front
    measured = {
        record.number: record.evaluation.objectives
        for record in found.whole.records
        if record.evaluation.objectives is not None
    }
    for point in front:
        assert isinstance(point, FrontPoint)
        assert measured[point.trial] == (point.accuracy, point.latency_ms)
        assert width_of(point.notation) == round(100 * point.accuracy)
        for accuracy, latency_ms in measured.values():
            assert not (accuracy > point.accuracy and latency_ms < point.latency_ms)
    assert [point.latency_ms for point in front] == sorted(point.latency_ms for point in front)


def test_the_frame_has_a_row_per_candidate_that_was_measured(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in: what pandas makes of a list of rows is its own affair.
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = found.whole.to_pandas()
    fresh = [r for r in found.whole.records if r.repeats is None and r.reward is not None]
    assert [row["trial"] for row in rows] == [record.number for record in fresh]
    assert {row["trial"] for row in rows if row["on_front"]} == {
        point.trial for point in found.whole.pareto_front
    }
    assert set(rows[0]) == {"trial", "accuracy", "latency_ms", "reward", "notation", "on_front"}


def test_without_pandas_there_is_no_frame(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pandas is not installed; `pip install pandas`"):
        found.whole.to_pandas()


def test_an_interrupted_and_extended_search_has_the_trials_of_one_that_ran_through(
    found: Found,
) -> None:
    assert found.before and not set(found.before) & set(found.after)
    assert sorted(found.before + found.after) == list(range(TRIALS))

    def told(record: TrialRecord) -> tuple[object, ...]:
        accuracy = record.evaluation.accuracy
        top1 = None if accuracy is None else accuracy.top1
        return record.number, record.evaluation.architecture, record.repeats, top1

    assert [*map(told, found.resumed.records)] == [*map(told, found.whole.records)]
    assert RunDirectory.open(found.resumed.run).config == RunDirectory.open(found.whole.run).config


def test_resuming_what_is_finished_returns_it(found: Found) -> None:
    observer = Observer()
    again = resume_search(found.whole.run, observer=observer)
    assert observer.numbers == []
    assert again == found.whole


def test_parts_of_ones_own_are_kept_by_reference(found: Found) -> None:
    config = RunDirectory.open(found.whole.run).config
    assert config.trainer == f"{__name__}:train"
    assert config.space == f"{__name__}:SPACE"


def test_an_existing_run_is_never_overwritten(found: Found) -> None:
    before = {path: path.stat().st_mtime_ns for path in found.whole.run.rglob("*")}
    with pytest.raises(RunError, match="a new run needs a directory of its own.*--resume"):
        search(found.directory, "whole", Observer())
    assert {path: path.stat().st_mtime_ns for path in found.whole.run.rglob("*")} == before


def test_a_resumed_run_gets_no_fewer_trials(found: Found) -> None:
    with pytest.raises(ConfigError, match=f"keeps its {TRIALS} trials or gets more, not 1"):
        resume_search(found.whole.run, trials=1)


def test_what_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a run directory holds config\.toml"):
        resume_search(tmp_path)


def test_another_space_needs_its_target_latency(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs its target latency.*target_latency_ms=80\.0"):
        run_search("mnasnet", run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"device": "toaster"}, ProfileError),
        ({"data": "imagefolder:gone"}, DataError),
        ({"space": "gone", "target_latency_ms": 1.0}, SpaceError),
        ({"algorithm": "luck"}, ConfigError),
        ({"trials": 0}, ConfigError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)),
)
def test_what_cannot_be_leaves_no_run_behind(
    settings: dict[str, Any], error: type[UsageError], tmp_path: Path
) -> None:
    with pytest.raises(error):
        run_search(run=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_records_are_kept_in_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "records"
    file.touch()
    with pytest.raises(RecordsError, match="kept in a directory, and this is a file"):
        run_search(run=tmp_path / "run", records=str(file))
    assert not (tmp_path / "run").exists()


def test_a_trainer_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a trainer is found again by its name"):
        run_search(trainer=lambda task, report: train(task, report), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_space_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a space is found again by its name"):
        run_search(replace(SPACE, name="x"), target_latency_ms=1.0, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_winners_are_trained_in_full_exported_and_compared(
    found: Found, tmp_path: Path
) -> None:
    options = TransferOptions(
        recipe=Recipe(steps=3, batch_size=8),
        records=str(found.directory / "records"),
        schedules_per_kernel=1,
        how=SideBySide(jobs=2),
    )
    run = found.directory / "whole"

    def go() -> tuple[Winner, ...]:
        return transfer(run, tmp_path / "out", top=2, options=options, observer=Observer())

    winners = go()
    rewards = sorted(
        (record.reward for record in RunDirectory.open(run).finished_trials() if record.reward),
        reverse=True,
    )
    chosen = {record.number: record for record in RunDirectory.open(run).finished_trials()}
    assert len(winners) == min(2, len(rewards))
    for winner in winners:
        place = tmp_path / "out" / f"trial-{winner.trial}"
        assert winner.failure is None
        assert winner.notation == chosen[winner.trial].evaluation.architecture.notation
        assert winner.result is not None and winner.latency is not None
        manifest = read_manifest(place / "export" / "manifest.json")
        assert manifest.test.top1 == winner.result.test.value
        assert manifest.latency == winner.latency
        assert (manifest.origin.run, manifest.origin.trial) == (run.name, winner.trial)
        assert manifest.origin.search_reward == chosen[winner.trial].reward
        assert (place / "export" / "net.so").is_file()
        printed = json.loads(json.dumps(winner.to_json()))
        assert printed["latency"]["latency_ms"] == winner.latency.latency_ms
    tops = [winner.result.test.value for winner in winners if winner.result is not None]
    assert tops == sorted(tops, reverse=True)
    # Typed again, it trains and measures nothing again.
    assert go() == winners
    other = replace(options, recipe=Recipe(steps=4, batch_size=8))
    with pytest.raises(RunError, match="is of another training"):
        transfer(run, tmp_path / "out", top=2, options=other, observer=Observer())


def test_a_transfer_of_nothing_is_refused(found: Found, tmp_path: Path) -> None:
    options = TransferOptions(recipe=Recipe(steps=3))
    with pytest.raises(ConfigError, match="1 candidate or more, not 0"):
        transfer(found.directory / "whole", tmp_path, top=0, options=options, observer=Observer())
    with pytest.raises(RunError, match=r"config\.toml"):
        transfer(tmp_path, tmp_path / "out", top=1, options=options, observer=Observer())
