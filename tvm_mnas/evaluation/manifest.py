"""The manifest of an exported network: where it comes from, and how accuracy and latency were measured.

`manifest.json` is what people and programs read who ship the network; its keys and the rule by which
`SCHEMA_VERSION` rises are in docs/formats.md.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import RunError, TvmMnasError
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.evaluation.ranking import AccuracyNoise
from tvm_mnas.training.accuracy import Accuracy

SCHEMA_VERSION = 2
"""Rises when a key changes its meaning; a new key alone does not raise it. Format 1 is read too."""

MANIFEST = "manifest.json"

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The search that found the network: its run, the trial, and what that trial had in the search.

    For a network that no search found, `run` is the directory of its training, and `trial`, `trials` and `algorithm`
    are None. `trials` is how many the run had in all, `search_accuracy` that of the short training, None where it is
    not known; `accuracy_noise` says how much such an accuracy means, None where too few candidates were trained twice.
    """

    run: str
    trial: int | None
    trials: int | None
    search_reward: float | None
    search_accuracy: Accuracy | None
    algorithm: str | None
    seed: int
    accuracy_noise: AccuracyNoise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor of the compiled network: its name in the ONNX file, its shape and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The data that the network was trained on: its spec, and what an image has to go through before `main`.

    `mean` and `std` are per channel, of pixels in 0..1; `grey` says that the images have one channel in their files.
    """

    spec: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    grey: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFacts:
    """The compiled library: its file, and the distinct kernels and measured schedules behind it.

    It computes in `dtype`, its sums in `accumulator`; what it takes and returns are `Manifest.input` and `output`.
    """

    former_names: ClassVar[Mapping[str, str]] = types.MappingProxyType(
        {"tuning_trials": "schedules_measured"}
    )
    """What version 0.1 called a key."""

    file: str
    size_bytes: int
    kernels: int
    schedules_measured: int
    target: str
    dtype: str = "float32"
    accumulator: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known of an exported network.

    `validation` and `test` are the accuracies after the long training: what chose the network, and what it was
    tested with once. `created` is an ISO time with its UTC offset, `versions` those of the packages behind it.
    """

    created: str
    origin: Origin
    architecture: str
    architecture_id: str
    parameters: int
    mult_adds: int
    input: TensorSpec
    output: TensorSpec
    data: DataFacts
    validation: Accuracy
    test: Accuracy
    latency: Latency
    agreement: Agreement
    artifact: ArtifactFacts
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_json` reads back to an equal manifest."""
        accuracy, noise = self.origin.search_accuracy, self.origin.accuracy_noise
        return {
            "format": SCHEMA_VERSION,
            "created": self.created,
            "origin": {
                **asdict(self.origin),
                "search_accuracy": None if accuracy is None else accuracy.to_json(),
                "accuracy_noise": None if noise is None else noise.to_json(),
            },
            "architecture": self.architecture,
            "architecture_id": self.architecture_id,
            "parameters": self.parameters,
            "mult_adds": self.mult_adds,
            "input": _listed(self.input),
            "output": _listed(self.output),
            "data": _listed(self.data),
            "accuracy": {"validation": self.validation.to_json(), "test": self.test.to_json()},
            "latency": self.latency.to_dict(),
            "agreement": asdict(self.agreement),
            "artifact": asdict(self.artifact),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """Return the manifest that `to_json` wrote, in this version or an older one.

        Raises:
            RunError: if a key is missing or its value is of another kind, or the format is a newer one.
        """
        table = _table(values, "the manifest")
        if table.get("format") not in range(1, SCHEMA_VERSION + 1):
            raise RunError(
                f"cannot read a manifest of format {table.get('format')!r}: this version reads formats up to "
                f"{SCHEMA_VERSION}"
            )
        origin = dict(_table(table.get("origin"), "origin"))
        found = origin.pop("search_accuracy", None)
        noise = origin.pop("accuracy_noise", None)
        accuracy = _table(table.get("accuracy"), "accuracy")
        agreement = _table(table.get("agreement"), "agreement")
        if table["format"] == 1:
            # Relative to the outputs' magnitude then.
            agreement = {
                "judge": agreement.get("with", MISSING),
                "images": agreement.get("images", MISSING),
                "difference": agreement.get("largest_relative_difference", MISSING),
            }
        try:
            return cls(
                created=_checked(table.get("created"), str, "created"),
                origin=_read(
                    Origin,
                    {
                        **origin,
                        "search_accuracy": None if found is None else _accuracy(found, "origin"),
                        "accuracy_noise": None
                        if noise is None
                        else AccuracyNoise.from_json(_table(noise, "origin.accuracy_noise")),
                    },
                    "origin",
                ),
                architecture=_checked(table.get("architecture"), str, "architecture"),
                architecture_id=_checked(table.get("architecture_id"), str, "architecture_id"),
                parameters=_checked(table.get("parameters"), int, "parameters"),
                mult_adds=_checked(table.get("mult_adds"), int, "mult_adds"),
                input=_read(TensorSpec, table.get("input"), "input"),
                output=_read(TensorSpec, table.get("output"), "output"),
                data=_read(DataFacts, table.get("data"), "data"),
                validation=_accuracy(accuracy.get("validation"), "accuracy.validation"),
                test=_accuracy(accuracy.get("test"), "accuracy.test"),
                latency=Latency.from_dict(_table(table.get("latency"), "latency")),
                agreement=_read(Agreement, agreement, "agreement"),
                artifact=_read(ArtifactFacts, table.get("artifact"), "artifact"),
                versions={
                    name: _checked(text, str, f"versions.{name}")
                    for name, text in _table(table.get("versions"), "versions").items()
                },
            )
        except RunError:
            raise
        except TvmMnasError as error:
            raise RunError(f"cannot read a manifest: {error}") from error


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in the file `path`.

    Raises:
        RunError: if there is no such file, or it is not a manifest that this version reads.
    """
    try:
        return Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"cannot read the manifest {path}: {error.strerror}") from error
    except (ValueError, RunError) as error:
        raise RunError(
            f"cannot read the manifest {path}: {error}; `tvm-mnas export RUN -o DIRECTORY` makes the export again"
        ) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `manifest` to the file `path`."""
    path.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")


def _listed(part: TensorSpec | DataFacts) -> dict[str, Any]:
    """Return the fields of `part`, tuples as the lists that JSON has."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(part).items()}


def _table(values: object, name: str) -> Mapping[str, object]:
    if not isinstance(values, Mapping):
        raise RunError(f"{name} is a table with keys; it is {values!r}")
    return values


def _accuracy(values: object, name: str) -> Accuracy:
    return Accuracy.from_json(_table(values, name))


def _read(kind: type[_Part], values: object, name: str) -> _Part:
    """Return the part of kind `kind` with the fields in `values`, each of its declared type.

    What a later version added has a default: an older file lacks it.
    """
    former: Mapping[str, str] = getattr(kind, "former_names", {})
    given = {former.get(key, key): value for key, value in _table(values, name).items()}
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(cast(Any, kind))}
    defaults = {field.name: field.default for field in fields(cast(Any, kind)) if field.init}
    read = {
        key: _checked(given.get(key, defaults[key]), hint, f"{name}.{key}")
        for key, hint in known.items()
    }
    return kind(**read)


def _checked(value: object, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint` says: a type, an optional one, or a tuple of one type."""
    if value is MISSING or (value is None and type(None) not in get_args(hint)):
        raise RunError(f"it lacks {name}")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise RunError(f"{name} is a list; it is {value!r}")
        return tuple(_checked(item, get_args(hint)[0], name) for item in value)
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise RunError(f"{name} is of type {hint.__name__}; it is {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RunError(f"{name} is a finite number; it is {value!r}")
    return value
