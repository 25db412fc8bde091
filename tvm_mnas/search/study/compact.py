"""What is held in memory of a finished trial: a tenth of what a storage keeps when it reads one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tvm_mnas.errors import RunError, TvmMnasError
from tvm_mnas.evaluation.results import Evaluation

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import FrozenTrial

EVALUATION_ATTRIBUTE = "evaluation"
"""The trial's attribute with its evaluation."""


class Choices(Mapping[str, Any]):
    """The parameters of a trial, as where they are among the choices: `layout` has these by name, and is shared."""

    __slots__ = ("_layout", "_tokens")

    def __init__(
        self, params: Mapping[str, Any], layout: Mapping[str, tuple[int, Sequence[Any]]]
    ) -> None:
        tokens = [choices.index(params[name]) for name, (_, choices) in layout.items()]
        self._layout = layout
        self._tokens = bytes(tokens) if max(tokens, default=0) < 256 else tuple(tokens)

    def __getitem__(self, name: str) -> Any:
        place, choices = self._layout[name]
        return choices[self._tokens[place]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._tokens)


class Packed:
    """A JSON value, less what its text has in common with `example`: the evaluations of a run differ in little."""

    __slots__ = ("_data", "_example")

    def __init__(self, value: Any, example: bytes) -> None:
        packer = zlib.compressobj(level=9, zdict=example)
        self._example = example
        self._data = packer.compress(json_bytes(value)) + packer.flush()

    def __len__(self) -> int:
        return len(self._data)

    def value(self) -> Any:
        """Return the value."""
        return json.loads(zlib.decompressobj(zdict=self._example).decompress(self._data))


def json_bytes(value: Any) -> bytes:
    """Return the value as JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


class Packer:
    """Packs the finished trials of a study: their storage keeps what it reads, for each trial anew.

    Those whose distributions equal these share them and the choices in them. Evaluations are packed as
    `read_evaluation` takes them.
    """

    def __init__(self, distributions: Mapping[str, CategoricalDistribution]) -> None:
        self._example: bytes | None = None
        self._shared: dict[str, BaseDistribution] = dict(distributions)
        self._layout = {
            name: (place, one.choices) for place, (name, one) in enumerate(distributions.items())
        }

    def pack(self, trials: Iterable[FrozenTrial]) -> None:
        """Pack those of `trials` that are finished, in place."""
        for trial in trials:
            if not trial.state.is_finished():
                continue
            if trial.distributions == self._shared and not isinstance(trial.params, Choices):
                # To Optuna, which only reads those of a finished trial, one mapping is as good as another.
                trial.params = cast(Any, Choices(trial.params, self._layout))
                trial.distributions = self._shared
            value = trial.user_attrs.get(EVALUATION_ATTRIBUTE)
            if value is not None and not isinstance(value, Packed):
                if self._example is None:
                    self._example = json_bytes(value)
                packed = Packed(value, self._example)
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
        if isinstance(values, Packed):
            values = values.value()
        return Evaluation.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError, TvmMnasError) as error:
        raise RunError(
            f"{path}: the evaluation of trial {trial.number} cannot be read "
            f"({type(error).__name__}: {error}); restore study.journal from a copy"
        ) from error
