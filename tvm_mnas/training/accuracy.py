"""An accuracy and how it was obtained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Literal, cast

from tvm_mnas.errors import RunError

JsonValue = float | int | str
Split = Literal["validation", "test"]
Metric = Literal["top-1", "mAP"]
TOP_1: Metric = "top-1"
MEAN_AVERAGE_PRECISION: Metric = "mAP"


MEASURES: Mapping[Metric, str] = MappingProxyType({TOP_1: "top1", MEAN_AVERAGE_PRECISION: "map"})
"""What the value of a metric is called among a score's measures."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good a network is by `metric` on `samples` images; `measures` are all that were taken, 0..1, by name."""

    metric: Metric
    measures: Mapping[str, float]
    samples: int

    @property
    def value(self) -> float:
        """The one that counts."""
        return self.measures[MEASURES[self.metric]]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How accurate one trained network is, by `metric`: top-1 accuracy, or a detector's mean average precision.

    `top1` is that, in 0..1, on `samples` images of `split`; `train_loss` the mean training loss
    over the last steps; `duration_s` the wall time of the training, without the evaluation.
    """

    top1: float
    samples: int
    steps: int
    train_loss: float
    duration_s: float
    seed: int
    split: Split
    metric: Metric = TOP_1

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} of an accuracy must be a whole number, not {value!r}")
        for name in ("top1", "train_loss", "duration_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{name} of an accuracy must be a number, not {value!r}")
        if math.isnan(self.train_loss) or not 0.0 <= self.duration_s < math.inf:
            raise ValueError(
                f"an accuracy must be of a training that went well, not of loss {self.train_loss} "
                f"after {self.duration_s} s"
            )
        if not 0.0 <= self.top1 <= 1.0:
            raise ValueError(f"an accuracy must be in 0..1, not {self.top1}")
        if self.samples < 1:
            raise ValueError(f"an accuracy must be of at least one sample, not {self.samples}")
        if self.split not in ("validation", "test"):
            raise ValueError(f"an accuracy must be of validation or test, not {self.split!r}")
        if self.metric not in (TOP_1, MEAN_AVERAGE_PRECISION):
            raise ValueError(f"an accuracy must be top-1 or mAP, not {self.metric!r}")

    @property
    def standard_error(self) -> float:
        """Standard error of `top1` from the number of samples alone, as a share; of an mAP that is rough."""
        return float((self.top1 * (1.0 - self.top1) / self.samples) ** 0.5)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields as a JSON object; `from_json` reads it back to an equal accuracy."""
        values = cast(dict[str, JsonValue], asdict(self))
        # As it was before there were detectors.
        if self.metric == TOP_1:
            del values["metric"]
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Accuracy:
        """Return the accuracy that `data` describes.

        Raises:
            RunError: a field is missing, unknown or out of range.
        """
        names = {field.name for field in fields(cls)}
        data = {"metric": TOP_1} | dict(data)
        if set(data) != names:
            wrong = ", ".join(sorted(names ^ set(data)))
            raise RunError(f"a stored accuracy has exactly {len(names)} fields; wrong: {wrong}")
        try:
            return cls(
                top1=cast(float, data["top1"]),
                samples=cast(int, data["samples"]),
                steps=cast(int, data["steps"]),
                train_loss=cast(float, data["train_loss"]),
                duration_s=cast(float, data["duration_s"]),
                seed=cast(int, data["seed"]),
                split=cast(Split, data["split"]),
                metric=cast(Metric, data["metric"]),
            )
        except (TypeError, ValueError) as error:
            raise RunError(f"a stored accuracy cannot be read: {error}") from error
