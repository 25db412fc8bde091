"""What `tvm-mnas train --grid` does: the paper's small grid search for the settings of its full training.

"These hyperparameters are determined with a small grid search of 8 combinations of weight decay {0.00001, 0.00002},
learning rate {0.256, 0.128}, and batchnorm momentum {0.9997, 0.999}" (arXiv 1807.11626v1, "Experimental Setup").
The best is chosen by the validation split.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_mnas.workflows.training.full import TrainingObserver
from tvm_mnas.workflows.training.request import (
    TrainingRequest,
    TrainingResult,
    ensure_training,
    read_result,
)
from tvm_mnas.workflows.training.side_by_side import SideBySide, train_all

GRID: Mapping[str, tuple[float, ...]] = {
    "weight_decay": (1e-5, 2e-5),
    "learning_rate": (0.256, 0.128),
    "batch_norm_decay": (0.9997, 0.999),
}
"""What the grid changes in a recipe, with the paper's values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One training of a grid: what it changes in the recipe, its directory, and what came of it.

    Where the training failed, `failure` says why and `result` is None.
    """

    changes: Mapping[str, float]
    directory: Path
    result: TrainingResult | None
    failure: str | None

    @property
    def validation_top1(self) -> float:
        """The accuracy that chooses, 0..1; below all others where the training failed."""
        return -1.0 if self.result is None else self.result.validation.top1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self.changes,
            "directory": str(self.directory),
            "result": None if self.result is None else self.result.to_json(),
            "failure": self.failure,
        }


def train_grid(
    out: Path, request: TrainingRequest, *, how: SideBySide, observer: TrainingObserver
) -> tuple[Combination, ...]:
    """Train `request` with each combination of `GRID` in a directory below `out`; return them, the best first.

    What is in `out` already goes on.

    Raises:
        RunError: if `out` holds another training.
        DataError: if the data is missing, or does not fit.
    """
    places: dict[Path, Mapping[str, float]] = {}
    for values in itertools.product(*GRID.values()):
        changes = dict(zip(GRID, values, strict=True))
        place = out / "-".join(f"{name}={value:g}" for name, value in changes.items())
        recipe = replace(request.recipe, **changes)  # type: ignore[arg-type]  # each is a float
        ensure_training(place, replace(request, recipe=recipe))
        places[place] = changes
    failures = train_all(list(places), how=how, observer=observer)
    combinations = [
        Combination(
            changes=changes,
            directory=place,
            result=read_result(place),
            failure=failures.get(place),
        )
        for place, changes in places.items()
    ]
    return tuple(sorted(combinations, key=lambda one: -one.validation_top1))
