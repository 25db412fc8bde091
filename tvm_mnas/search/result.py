"""What a finished search found, as plain dataclasses, and which candidates are retrained before one is named the best.

A short training ranks candidates roughly, so its winner is a finalist and no more (paper, "Experimental Setup":
a few top-performing models are transferred to the full task).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.manifest import Manifest
from tvm_mnas.search.pareto import Point, pareto_front
from tvm_mnas.search.proxy import noise_of
from tvm_mnas.search.run import TrialRecord


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A candidate of the Pareto front: what was measured of it, and the notation that builds it again."""

    trial: int
    accuracy: float
    latency_ms: float
    reward: float
    notation: str


@dataclass(frozen=True)
class SearchResult:
    """What a finished search found: every trial, and the best candidate with its export's manifest."""

    run: Path
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    export: Path | None
    manifest: Manifest | None

    @property
    def pareto_front(self) -> tuple[FrontPoint, ...]:
        """The candidates that none beats in both accuracy and latency, the fastest first."""
        points = self._points()
        front = pareto_front([Point(point.accuracy, point.latency_ms) for point in points])
        return tuple(points[index] for index in front)

    def to_pandas(self) -> Any:
        """Return every measured candidate as a `pandas.DataFrame`, with a column `on_front`.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError as error:
            raise ConfigError(
                "cannot make a data frame: pandas is not installed; `pip install pandas`"
            ) from error
        front = {point.trial for point in self.pareto_front}
        return pandas.DataFrame(
            [asdict(point) | {"on_front": point.trial in front} for point in self._points()]
        )

    def _points(self) -> list[FrontPoint]:
        points: list[FrontPoint] = []
        for record in self.records:
            objectives = record.evaluation.objectives
            if record.repeats is None and objectives is not None and record.reward is not None:
                notation = record.evaluation.architecture.notation
                points.append(FrontPoint(record.number, *objectives, record.reward, notation))
        return points

    def summary(self) -> dict[str, Any]:
        """Return counts, costs and the best candidate as plain JSON values."""
        fresh = [record for record in self.records if record.repeats is None]
        efforts = [record.evaluation.effort for record in fresh]
        noise = noise_of(self.records)
        return {
            "trials": len(self.records),
            "candidates": len(fresh),
            "failed": sum(record.reward is None for record in fresh),
            "training_s": sum(effort.training_s for effort in efforts),
            "tuning_s": sum(effort.tuning_s for effort in efforts),
            "tuning_s_per_candidate": sum(effort.tuning_s for effort in efforts)
            / max(1, len(fresh)),
            "kernels_tuned": sum(effort.kernels_tuned for effort in efforts),
            "schedules_measured": sum(effort.schedules_measured for effort in efforts),
            "compiling_s": sum(effort.compiling_s for effort in efforts),
            "measuring_s": sum(effort.measuring_s for effort in efforts),
            "accuracy_noise": None if noise is None else noise.to_json(),
            "best_trial": None if self.best is None else self.best.number,
            "export": None if self.export is None else str(self.export),
            "manifest": None if self.manifest is None else self.manifest.to_json(),
        }


def pick_finalists(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return the `count` different candidates with the highest reward, best first; fewer if fewer succeeded."""
    # Ties go to the earlier trial, so that the choice does not depend on the order of a sort.
    return sorted(succeeded(records), key=lambda record: (-_reward(record), record.number))[:count]


def succeeded(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the candidates that have a reward, each once, by the first of `records` that met it."""
    first: dict[str, TrialRecord] = {}
    for record in records:
        if record.reward is not None:
            first.setdefault(record.evaluation.architecture.id, record)
    return list(first.values())


def _reward(record: TrialRecord) -> float:
    assert record.reward is not None
    return record.reward
