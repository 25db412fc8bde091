"""What is told of accuracies: less than an epoch, near chance, and their noise from candidates trained twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest

from tests.search.test_loop import Synthetic
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.results import Effort, Evaluation, Failure
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.proxy import (
    MOST_REPLICATES,
    ChanceWatch,
    Replicates,
    accuracy_notes,
    chance_note,
    count_images,
    epochs_note,
    noise_of,
)
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.training.accuracy import Accuracy


def new_run(path: Path, **settings: object) -> RunDirectory:
    return RunDirectory.create(path, SearchConfig.from_mapping(settings, source="test"))


def note_of(path: Path, **settings: object) -> str | None:
    run = new_run(path / "run", **settings)
    return epochs_note(run, count_images(run, 32))


def test_less_than_an_epoch_is_told_with_how_many_steps_one_has(tmp_path: Path) -> None:
    note = note_of(tmp_path, train_steps=50)
    # 8,000 of the embedded images are trained on, 64 a step.
    assert note is not None
    assert "3200 of 8000 images, 0.40 epochs" in note
    assert "--train-steps 125 is one epoch" in note


@pytest.mark.parametrize(
    "settings",
    [{"train_steps": 125}, {"train_epochs": 1.0}, {"train_steps": 5, "trainer": "mine:train"}],
    ids=str,
)
def test_an_epoch_or_a_trainer_of_ones_own_is_not_told_of(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    assert note_of(tmp_path, **settings) is None


def record(number: int, top1: float | None, classes: int) -> TrialRecord:
    network = Architecture.parse(f"i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head8:n{classes}")
    accuracy = None
    if top1 is not None:
        accuracy = Accuracy(
            top1=top1, samples=1000, steps=5, train_loss=1.0, duration_s=1.0, seed=0,
            split="validation",
        )  # fmt: skip
    failure = Failure("measuring", "MeasurementError", "lost")
    evaluation = Evaluation.failed(network, failure, Effort(), accuracy)
    return TrialRecord(number, evaluation, None, None)


@pytest.mark.parametrize(
    ("accuracies", "classes", "told"),
    [
        ([0.002, 0.001, 0.002, 0.003], 1000, True),
        ([0.12, 0.29, 0.2, 0.5], 10, True),
        ([0.12, 0.35, 0.3, 0.5], 10, False),
        ([0.004, 0.005, 0.1, 0.2], 1000, False),
        ([0.1, 0.1, 0.1], 10, False),
    ],
)
def test_a_first_batch_near_chance_is_told_once(
    accuracies: list[float], classes: int, told: bool
) -> None:
    watch = ChanceWatch(4)
    lines = [watch.look(record(number, top1, classes)) for number, top1 in enumerate(accuracies)]
    assert watch.look(record(9, None, classes)) is None
    assert watch.look(record(10, 0.0, classes)) is None or len(accuracies) < 4
    found = [line for line in lines if line is not None]
    assert len(found) == told
    if told:
        assert f"where a guess has {1 / classes:.2%}" in found[0]
        assert "--train-steps" in found[0]


@pytest.mark.parametrize(
    ("precisions", "told"), [([0.0, 0.04, 0.6], True), ([0.06, 0.2, 0.0], False)]
)
def test_detectors_that_find_hardly_anything_are_told(precisions: list[float], told: bool) -> None:
    records = []
    for number, precision in enumerate(precisions):
        one = record(number, precision, classes=3)
        assert one.evaluation.accuracy is not None
        accuracy = replace(one.evaluation.accuracy, metric="mAP")
        records.append(replace(one, evaluation=replace(one.evaluation, accuracy=accuracy)))
    note = chance_note(records)
    assert (note is not None) == told
    assert note is None or "an mAP of 4.00% in the median" in note


@dataclass
class Twice:
    """Stands for the pipeline: a second accuracy is one percent below the first; trainings named in `lost` fail."""

    lost: frozenset[str] = frozenset()
    ends: bool = False
    evaluator: Synthetic = field(default_factory=lambda: Synthetic(load_space("mnasnet")))
    notes: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)

    def train_again(
        self, architectures: Sequence[Candidate]
    ) -> Iterator[tuple[int, Accuracy | None]]:
        self.batches.append([candidate.id for candidate in architectures])
        # As processes do, in an order of its own: the last first.
        for index, evaluation in self.evaluator.evaluate(cast(Any, architectures)):
            assert evaluation.accuracy is not None
            second = replace(evaluation.accuracy, top1=evaluation.accuracy.top1 - 0.01)
            yield index, None if architectures[index].id in self.lost else second
            if self.ends:
                raise KeyboardInterrupt

    @property
    def observer(self) -> Any:
        return SimpleNamespace(note=self.notes.append)


def search(
    path: Path, *, replicates: int, trials: int, side_by_side: int = 2
) -> tuple[RunDirectory, Twice]:
    """Search a synthetic landscape, and train every so many candidates a second time."""
    run = new_run(
        path, space="mnasnet", algorithm="random", trials=trials, batch=4, replicates=replicates
    )
    space = load_space("mnasnet")
    pipeline = Twice()
    with run.lock():
        study = run.study(optuna.samplers.RandomSampler(seed=0))
        again = Replicates(
            run, study, cast(Any, pipeline), pipeline.observer, side_by_side=side_by_side
        )
        run_trials(run, space, study, Synthetic(space), on_batch=again.train_due)
        again.train_due(last=True)
    return run, pipeline


def test_every_fourth_candidate_is_trained_twice_and_tells_the_noise(tmp_path: Path) -> None:
    run, pipeline = search(tmp_path / "run", replicates=4, trials=36)
    records = run.finished_trials()
    trained = [r for r in records if r.repeats is None and r.evaluation.accuracy is not None]
    twice = [r.number for r in trained if r.replicate is not None]
    assert twice == [r.number for r in trained[::4]]
    assert len(twice) > 5
    # Two at once, but for those that are left at the end.
    assert [len(batch) for batch in pipeline.batches[:-1]] == [2] * (len(pipeline.batches) - 1)
    noise = noise_of(records)
    assert noise is not None
    assert noise.noise == pytest.approx(0.01 / 2**0.5)
    assert (noise.pairs, noise.candidates) == (len(twice), len(trained))
    assert pipeline.notes == [], "told with the result"
    note = accuracy_notes(run, records)[-1]
    assert f"noise is 0.71% ({len(twice)} candidates trained twice)" in note
    assert f"rank correlation of {noise.rank_correlation:.2f}" in note


def test_without_replicates_nothing_is_trained_twice_and_no_noise_known(tmp_path: Path) -> None:
    run, pipeline = search(tmp_path / "run", replicates=0, trials=12)
    assert (pipeline.batches, pipeline.notes) == ([], [])
    assert noise_of(run.finished_trials()) is None
    assert not any("noise" in note for note in accuracy_notes(run, run.finished_trials()))


def test_a_long_search_trains_no_more_than_enough_twice(tmp_path: Path) -> None:
    run, pipeline = search(tmp_path / "run", replicates=1, trials=60)
    with run.lock():
        assert len(run.replicated(run.study())) == MOST_REPLICATES
    # Told as soon as it is known, long before the end.
    (note,) = pipeline.notes
    assert "(24 candidates trained twice)" in note


def test_a_search_that_goes_on_trains_what_is_lacking_and_nothing_again(tmp_path: Path) -> None:
    whole, _ = search(tmp_path / "whole", replicates=3, trials=24)
    run, _ = search(tmp_path / "run", replicates=0, trials=24)
    run = RunDirectory(run.path, whole.config)
    ended = Twice(ends=True)
    with run.lock(), pytest.raises(KeyboardInterrupt):
        Replicates(run, run.study(), cast(Any, ended), ended.observer, side_by_side=2).train_due(
            last=True
        )
    pipeline = Twice()
    with run.lock():
        Replicates(
            run, run.study(), cast(Any, pipeline), pipeline.observer, side_by_side=2
        ).train_due(last=True)
    (first,), (rest,) = ended.batches, pipeline.batches
    # The last was trained before it ended.
    assert rest == first[:-1]
    assert noise_of(run.finished_trials()) == noise_of(whole.finished_trials())


def test_a_second_training_that_fails_is_not_tried_for_ever(tmp_path: Path) -> None:
    run, _ = search(tmp_path / "run", replicates=0, trials=12)
    records = [r for r in run.finished_trials() if r.evaluation.accuracy is not None]
    run = RunDirectory(run.path, replace(run.config, replicates=1))
    pipeline = Twice(lost=frozenset({records[0].evaluation.architecture.id}))
    with run.lock():
        study = run.study()
        for _ in range(2):
            again = Replicates(run, study, cast(Any, pipeline), pipeline.observer, side_by_side=2)
            again.train_due(last=True)
    assert len(pipeline.batches) == 1
    found = {r.number: r.replicate for r in run.finished_trials()}
    assert found[records[0].number] is None
    assert found[records[1].number] is not None


def test_a_damaged_second_accuracy_is_named(tmp_path: Path) -> None:
    run, _ = search(tmp_path / "run", replicates=4, trials=8)
    with run.lock():
        study = run.study()
        study.set_user_attr("replicate:0", {"top1": "high"})
    with pytest.raises(RunError, match="second accuracy of trial 0"):
        run.finished_trials()


def test_the_report_tells_what_the_search_told(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", train_steps=50, batch=2)
    records = [record(number, 0.12, 10) for number in range(3)]
    assert len(accuracy_notes(run, records)) == 1
    count_images(run, 32)
    epochs, chance = accuracy_notes(run, records)
    assert "3200 of 8000 images" in epochs
    assert "the first 2 have 12.00% in the median" in chance
    (run.path / "data.json").write_text("[]")
    assert accuracy_notes(run, records) == (chance,)
