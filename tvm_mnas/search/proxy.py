"""Whether the short training can tell candidates apart: said before a search pays for it, and after its first batch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from tvm_mnas.evaluation.trainers import load_splits
from tvm_mnas.search.run import RunDirectory, TrialRecord

NEAR_CHANCE = 3.0
"""A candidate is near chance below so many times the accuracy of a guess."""


def epochs_note(directory: RunDirectory, input_size: int) -> str | None:
    """Return a line if candidates see less than one epoch, None if they see more or it's a trainer of one's own.

    Raises:
        DataError: if the data is missing or malformed.
    """
    config, recipe = directory.config, directory.recipe
    if config.trainer != "proxy" or recipe.epochs >= 1:
        return None
    splits = load_splits(
        config.data, input_size, config.seed, config.max_bad_images, recipe.crop_padding
    )
    plan = recipe.plan(len(splits.train))
    if plan.epochs >= 1:
        return None
    seen = plan.steps * recipe.batch_size
    whole = recipe.lasting(epochs=1).plan(len(splits.train)).steps
    return (
        f"a candidate's accuracy is rough: it trains on {seen} of {len(splits.train)} images, {plan.epochs:.2f} "
        f"epochs; --train-steps {whole} is one epoch"
    )


@dataclass
class ChanceWatch:
    """Looks at the accuracies of a search's first `batch` candidates."""

    batch: int
    _accuracies: list[float] = field(default_factory=list)
    _told: bool = False

    def look(self, record: TrialRecord) -> str | None:
        """Return a line, once, if the candidates of the first batch end near chance."""
        accuracy = record.evaluation.accuracy
        if self._told or accuracy is None:
            return None
        self._accuracies.append(accuracy.top1)
        if len(self._accuracies) < self.batch:
            return None
        self._told = True
        middle, chance = (
            statistics.median(self._accuracies),
            1 / record.evaluation.architecture.classes,
        )
        if middle >= NEAR_CHANCE * chance:
            return None
        return (
            f"candidates end near chance, so that their accuracies say little: the first {self.batch} have "
            f"{middle:.2%} in the median where a guess has {chance:.2%}; train longer (--train-steps, --train-epochs)"
        )
