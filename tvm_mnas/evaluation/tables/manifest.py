"""The manifest of a table: of what, on what, when and with what it was made, and the checksums of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tvm_mnas.cores.precision import Dtype
from tvm_mnas.errors import RunError

SCHEMA_VERSION = 1
"""Rises when a key changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviations between architectures and of one measurement, and the rank correlation `between` two.

    Accuracies are in percentage points, latencies in percent of their mean.
    """

    mean: float
    spread: float
    noise: float
    between: float

    @property
    def ratio(self) -> float:
        """How many times the noise the spread is."""
        return self.spread / self.noise if self.noise else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDevice:
    """What every latency of the table has in common: the device, and how it was timed."""

    device_key: str
    fingerprint: str
    target: str
    tvm_version: str
    method: str
    max_spread: float
    emulated: bool
    dtype: Dtype = "float32"
    accumulator: Dtype = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableManifest:
    """What the table is of and how it was made; `files` has the SHA-256 of each file beside it.

    `steps` are the budgets of the trainings, none where nothing was trained; `accuracy` says of each, by its steps, how
    spread and noisy the accuracies are, `latency` of each kind of latency. `cpu` names the machine that was timed,
    `timed` are the dates (ISO) of its first and last latency.
    """

    name: str
    space: str
    space_fingerprint: str
    architectures: int
    data: str
    recipe: str
    steps: tuple[int, ...]
    seed: int
    schedules_per_kernel: int
    device: TableDevice
    cpu: str
    timed: tuple[str, str]
    versions: Mapping[str, str]
    accuracy: Mapping[str, Spread]
    latency: Mapping[str, Spread]
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)):
            raise RunError(f"a table's steps ascend, each once, not {list(self.steps)}")
        if set(self.accuracy) != {str(steps) for steps in self.steps}:
            raise RunError("a table's manifest tells spread and noise for each of its steps")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_json` reads back to an equal manifest."""
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, text: str) -> TableManifest:
        """Return the manifest that is in `text`.

        Raises:
            RunError: if it is of another version, or not whole.
        """
        try:
            values = json.loads(text)
            schema = values.pop("schema")
            if schema != SCHEMA_VERSION:
                raise RunError(
                    f"a table of format {SCHEMA_VERSION} can be read, not of format {schema}"
                )
            names = {field.name for field in fields(cls)}
            if set(values) != names:
                raise RunError(
                    f"a table's manifest has other keys: {', '.join(sorted(names ^ set(values)))}"
                )
            return cls(
                **values
                | {
                    "steps": tuple(values["steps"]),
                    "timed": tuple(values["timed"]),
                    "device": TableDevice(**values["device"]),
                    "accuracy": {key: Spread(**one) for key, one in values["accuracy"].items()},
                    "latency": {key: Spread(**one) for key, one in values["latency"].items()},
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"a table's manifest cannot be read: {error}") from error
