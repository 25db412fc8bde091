"""What is trained in full, on what, and how; and what came of it: `training.json` and `result.json` of a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import RunError
from tvm_mnas.files import atomic_write_text
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.training.accuracy import Accuracy, Score
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, load_data
from tvm_mnas.training.recipe import Recipe, recipe_from

if TYPE_CHECKING:
    from tvm_mnas.training.data.splits import DataSplits

SCHEMA = 1
_REQUEST = "training.json"
_RESULT = "result.json"
WEIGHTS = "weights.safetensors"
_TEST_SAMPLES = "test_samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What is trained, on what, and how; `start` is a file of weights to begin with, or empty."""

    notation: str
    data: str
    recipe: Recipe
    seed: int = 0
    max_bad_images: int = 0
    start: str = ""

    @property
    def candidate(self) -> Candidate:
        """The network to train."""
        return parse_candidate(self.notation)

    def to_json(self) -> dict[str, Any]:
        """Return the request as a JSON object; `from_json` reads it back to an equal one."""
        return asdict(self) | {"schema": SCHEMA}

    @classmethod
    def from_json(cls, values: dict[str, Any], *, source: str) -> TrainingRequest:
        """Return the request in `values`.

        Raises:
            RunError: if they are of another version, or not whole.
            ConfigError: if the recipe breaks a rule.
        """
        if values.get("schema") != SCHEMA:
            raise RunError(f"{source} is no training of version {SCHEMA}; start anew in another directory")  # fmt: skip
        try:
            return cls(
                notation=str(values["notation"]),
                data=str(values["data"]),
                recipe=recipe_from(values["recipe"], source=source),
                seed=int(values["seed"]),
                max_bad_images=int(values["max_bad_images"]),
                start=str(values["start"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{source} is damaged ({error!r}); start anew in another directory") from error  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training ended with: the accuracy that chooses, all measures of the validation (0..1), and the test."""

    validation: Accuracy
    validation_measures: Mapping[str, float]
    test: Score
    epochs: float

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json; `from_json` reads it back to an equal result."""
        return {
            "schema": SCHEMA,
            "validation": self.validation.to_json(),
            **{f"validation_{name}": value for name, value in self.validation_measures.items()},
            **{f"test_{name}": value for name, value in self.test.measures.items()},
            _TEST_SAMPLES: self.test.samples,
            "epochs": self.epochs,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], *, source: str) -> TrainingResult:
        """Return the result in `values`; RunError if they are of another version, or not whole."""
        if values.get("schema") != SCHEMA:
            raise RunError(f"{source} is no result of version {SCHEMA}; delete it, and resume")
        try:
            validation = Accuracy.from_json(values["validation"])
            test = Score(validation.metric, _below("test_", values), int(values[_TEST_SAMPLES]))
            # That it is there is looked at.
            float(test.value)
            return cls(
                validation=validation,
                validation_measures=_below("validation_", values),
                test=test,
                epochs=float(values["epochs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{source} is damaged ({error!r}); delete it, and resume") from error


def _below(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    """Return the measures whose names in a result begin with `prefix`."""
    return {
        key.removeprefix(prefix): float(value)
        for key, value in values.items()
        if key.startswith(prefix) and key != _TEST_SAMPLES
    }


def create_training(out: Path, request: TrainingRequest) -> None:
    """Make the directory `out` of a new training.

    Raises:
        RunError: if it exists and holds something.
        DataError: if the data is not there, or does not fit the network.
    """
    from tvm_mnas.training.tasks import task_of

    check_data(request.data)
    candidate = request.candidate
    task_of(candidate).check_fit(candidate, load_splits_of(request, workers=0))
    if out.exists() and any(out.iterdir()):
        raise RunError(
            f"a training makes a new directory, and {out} holds something; name another (-o), or go on with "
            f"`tvm-mnas train --resume {out}`"
        )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out / _REQUEST, json.dumps(request.to_json(), indent=2) + "\n")


def ensure_training(out: Path, request: TrainingRequest) -> None:
    """Make the directory `out` of a training, unless it is there already for the same one.

    Raises what `create_training` raises, and RunError where `out` is of another training.
    """
    if not out.exists():
        create_training(out, request)
    elif read_request(out) != request:
        raise RunError(
            f"{out} is of another training: the network, the data, the recipe or the seed differ; name another "
            f"directory (-o)"
        )


def read_request(out: Path) -> TrainingRequest:
    """Return what is trained in the directory `out`.

    Raises:
        RunError: if it is the directory of no training.
    """
    file = out / _REQUEST
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{out} is no training: it has no {_REQUEST}; `tvm-mnas train MODEL --data SPEC -o {out}` starts one"
        ) from error
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); start anew in another directory") from error
    return TrainingRequest.from_json(values, source=str(file))


def read_result(out: Path) -> TrainingResult | None:
    """Return what the training in `out` ended with, None if it did not end yet.

    Raises:
        RunError: if that cannot be read.
    """
    file = out / _RESULT
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); delete it, and resume") from error
    return TrainingResult.from_json(values, source=str(file))


def write_result(out: Path, result: TrainingResult) -> None:
    """Keep what the training in `out` ended with."""
    atomic_write_text(out / _RESULT, json.dumps(result.to_json(), indent=2) + "\n")


def load_splits_of(request: TrainingRequest, *, workers: int) -> DataSplits:
    """Return the splits of the data of `request`, decoded by so many processes."""
    options = LoadOptions(
        input_size=request.candidate.input_size,
        seed=request.seed,
        workers=workers,
        max_bad_images=request.max_bad_images,
        crop_padding=request.recipe.crop_padding,
    )
    return load_data(request.data, options)
