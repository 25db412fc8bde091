"""What is held in memory of a finished trial: a tenth of what a storage keeps when it reads one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import RunError, TvmMnasError
from tvm_mnas.evaluation.results import Evaluation

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import FrozenTrial

EVALUATION_ATTRIBUTE = "evaluation"
"""The trial's attribute with its evaluation."""


def make_compact(
    trials: Iterable[FrozenTrial],
    distributions: Mapping[str, CategoricalDistribution],
) -> None:
    """Have finished `trials` take a tenth of their memory: a storage keeps what it reads, for each trial anew.

    They share these `distributions` and the choices in them, if theirs are equal, and hold their evaluation packed, as
    `read_evaluation` takes it.
    """
    shared: dict[str, BaseDistribution] = dict(distributions)
    for trial in trials:
        if trial.distributions == shared:
            trial.params = {
                name: one.choices[one.choices.index(trial.params[name])]
                for name, one in distributions.items()
            }
            trial.distributions = shared
        value = trial.user_attrs.get(EVALUATION_ATTRIBUTE)
        if value is not None and not isinstance(value, bytes):
            text = json.dumps(value, separators=(",", ":"))
            packed = zlib.compress(text.encode())
            trial.user_attrs = {**trial.user_attrs, EVALUATION_ATTRIBUTE: packed}


def read_evaluation(trial: FrozenTrial, path: Path) -> Evaluation | None:
    """Return the evaluation stored with `trial`, or None if there is none yet.

    Raises:
        RunError: naming the run directory `path`, if what is stored cannot be read.
    """
    values = trial.user_attrs.get(EVALUATION_ATTRIBUTE)
    if values is None:
        return None
    try:
        if isinstance(values, bytes):
            values = json.loads(zlib.decompress(values))
        return Evaluation.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError, TvmMnasError) as error:
        raise RunError(
            f"{path}: the evaluation of trial {trial.number} cannot be read "
            f"({type(error).__name__}: {error}); restore study.journal from a copy"
        ) from error
