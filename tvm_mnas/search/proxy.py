"""Whether the short training can tell candidates apart: said before a search pays for it, and while it goes on.

Every k-th candidate is trained a second time, with another seed: the noise of an accuracy beside the spread between
candidates tells how much their order means.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from tvm_mnas.evaluation.ranking import ENOUGH, AccuracyNoise, accuracy_noise
from tvm_mnas.evaluation.results import Observer, Replicating
from tvm_mnas.evaluation.trainers import load_splits
from tvm_mnas.files import atomic_write_text
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION

if TYPE_CHECKING:
    import optuna

_DATA = "data.json"
MOST_REPLICATES = 24
"""So many trained twice tell the noise to a seventh; more would cost what they do not tell."""
LEAST_PRECISION = 0.05
"""Below this mean average precision a detector has learnt next to nothing."""
NEAR_CHANCE = 3.0
"""A candidate is near chance below so many times the accuracy of a guess."""


def count_images(run: RunDirectory, input_size: int) -> int:
    """Return how many images a candidate is trained on, and keep it in the run for `accuracy_notes`.

    Raises:
        DataError: if the data is missing or malformed.
    """
    config = run.config
    splits = load_splits(
        config.data, input_size, config.seed, config.max_bad_images, run.recipe.crop_padding
    )
    images = len(splits.train)
    atomic_write_text(run.path / _DATA, json.dumps({"train_images": images}) + "\n")
    return images


def epochs_note(run: RunDirectory, images: int) -> str | None:
    """Return a line if candidates see less than one epoch of so many images; None for a trainer of one's own."""
    if run.config.trainer != "proxy":
        return None
    plan = run.recipe.plan(images)
    if plan.epochs >= 1:
        return None
    seen = plan.steps * run.recipe.batch_size
    whole = run.recipe.lasting(epochs=1).plan(images).steps
    return (
        f"a candidate's accuracy is rough: it trains on {seen} of {images} images, {plan.epochs:.2f} "
        f"epochs; --train-steps {whole} is one epoch"
    )


def chance_note(records: Sequence[TrialRecord]) -> str | None:
    """Return a line if the accuracies of `records` are near those of a guess, or detectors find hardly anything."""
    found = [r.evaluation.accuracy for r in records if r.evaluation.accuracy is not None]
    if not found:
        return None
    accuracies = [accuracy.top1 for accuracy in found]
    middle = statistics.median(accuracies)
    if found[0].metric == MEAN_AVERAGE_PRECISION:
        if middle >= LEAST_PRECISION:
            return None
        return (
            f"candidates find hardly anything, so that their precision says little: the first {len(accuracies)} have "
            f"an mAP of {middle:.2%} in the median; train longer (--train-steps, --train-epochs)"
        )
    chance = 1 / records[0].evaluation.architecture.classes
    if middle >= NEAR_CHANCE * chance:
        return None
    return (
        f"candidates end near chance, so that their accuracies say little: the first {len(accuracies)} have "
        f"{middle:.2%} in the median where a guess has {chance:.2%}; train longer (--train-steps, --train-epochs)"
    )


@dataclass
class ChanceWatch:
    """Looks at the accuracies of a search's first `batch` candidates."""

    batch: int
    _first: list[TrialRecord] = field(default_factory=list)

    def look(self, record: TrialRecord) -> str | None:
        """Return a line, once, if the candidates of the first batch end near chance."""
        if len(self._first) == self.batch or record.evaluation.accuracy is None:
            return None
        self._first.append(record)
        return chance_note(self._first) if len(self._first) == self.batch else None


def accuracy_notes(run: RunDirectory, records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Return what is to be said of how much the run's accuracies mean, from what its directory holds."""
    epochs = None
    # A run of before they were counted has no such file, and one that was tampered with is no reason to end.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads((run.path / _DATA).read_text(encoding="utf-8"))
        epochs = epochs_note(run, int(stored["train_images"]))
    trained = [record for record in records if record.evaluation.accuracy is not None]
    noise = noise_of(records)
    lines = (
        epochs,
        chance_note(trained[: run.config.batch]),
        None if noise is None else noise_line(noise),
    )
    return tuple(line for line in lines if line is not None)


@dataclass
class Replicates:
    """Trains every k-th candidate of a search a second time, `side_by_side` of them at once."""

    run: RunDirectory
    study: optuna.Study
    evaluator: Replicating
    observer: Observer
    _: KW_ONLY
    side_by_side: int
    _done: bool = False

    def train_due(self, *, last: bool = False) -> None:
        """Train those that are due, if they are enough to be trained side by side or the `last` trial is finished.

        Raises:
            DataError: if the data is missing or does not fit.
            RunError: if the study cannot be read.
        """
        if self._done:
            return
        chosen = _every(self.run.trials(self.study), self.run.config.replicates)
        trained = self.run.replicated(self.study)
        due = [record for record in chosen if record.number not in trained]
        enough = len(chosen) == MOST_REPLICATES
        if due and (last or enough or len(due) >= self.side_by_side):
            networks = [record.evaluation.architecture for record in due]
            for index, accuracy in self.evaluator.train_again(networks):
                self.run.keep_replicate(self.study, due[index].number, accuracy)
            # A search that ends says it with its result.
            noise = noise_of(self.run.trials(self.study)) if enough and not last else None
            if noise is not None:
                self.observer.note(noise_line(noise))
        self._done = last or enough


def noise_of(records: Sequence[TrialRecord]) -> AccuracyNoise | None:
    """Return how much the accuracies of `records` mean, None where too few were trained twice."""
    first = _different(records)
    pairs = [
        (accuracy.top1, record.replicate.top1)
        for record in first
        if record.replicate is not None and (accuracy := record.evaluation.accuracy) is not None
    ]
    accuracies = [
        record.evaluation.accuracy.top1
        for record in first
        if record.evaluation.accuracy is not None
    ]
    return accuracy_noise(accuracies, pairs)


def noise_line(noise: AccuracyNoise) -> str:
    """Return in a sentence how much an accuracy of the search means."""
    low, high = noise.rank_correlation_range
    text = (
        f"an accuracy's noise is {noise.noise:.2%} ({noise.pairs} candidates trained twice), the spread of all "
        f"{noise.candidates} is {noise.spread:.2%}: their order has a rank correlation of "
        f"{noise.rank_correlation:.2f} ({low:.2f} to {high:.2f}) with that of the means over many seeds"
    )
    if noise.rank_correlation < ENOUGH:
        text += "; a longer training tells them apart better (--train-steps, --train-epochs)"
    return text


def _every(records: Sequence[TrialRecord], step: int) -> list[TrialRecord]:
    return _different(records)[::step][:MOST_REPLICATES] if step else []


def _different(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that met their candidate first and have an accuracy."""
    return [r for r in records if r.repeats is None and r.evaluation.accuracy is not None]
