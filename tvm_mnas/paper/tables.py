"""The paper's tables: its figures, ours, and how the two compare.

Latencies of two devices do not compare. What does is how much slower one network is than another: each table has one
that is 1, in the paper's column and in ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import Cost
from tvm_mnas.paper.checkpoints import CheckpointAccuracy
from tvm_mnas.workflows.compare import ModelTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One network of a table: what the paper prints, None for a dash, and what is counted here.

    `accuracy_percent` is top-1 or mAP as the table has it, `latency_ms` that on a Pixel 1.
    """

    key: str
    name: str
    cost: Cost
    parameters: int | None = None
    mult_adds: int | None = None
    accuracy_percent: float
    latency_ms: float | None = None
    deviation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """A network of a table: what is counted and measured here, beside what was published.

    `relative` and `published_relative` are a latency divided by that of the table's baseline; `agreement` is the one
    divided by the other. `raw` is a detector's time up to its predictions, without decoding and suppression. A value is
    None where a part of it was not measured or not published.
    """

    key: str
    network: str
    parameters: int
    published_parameters: int | None
    mult_adds: int
    published_mult_adds: int | None
    published_accuracy_percent: float
    published_latency_ms: float | None
    published_relative: float | None
    relative: float | None
    deviation: str
    checkpoint: CheckpointAccuracy | None
    measurement: ModelTiming | None
    raw: ModelTiming | None = None

    @property
    def latency_ms(self) -> float | None:
        """The median of the rounds' latencies, None where there is none."""
        return None if self.measurement is None else self.measurement.latency_ms

    @property
    def raw_latency_ms(self) -> float | None:
        """A detector's latency without decoding and suppression, None where there is none."""
        return None if self.raw is None else self.raw.latency_ms

    @property
    def boxes_share(self) -> float | None:
        """Which part (0..1) of a detector's latency decoding and suppression take; below 0 where noise is larger."""
        ratio = _ratio(self.raw_latency_ms, self.latency_ms)
        return None if ratio is None else 1 - ratio

    @property
    def accuracy_percent(self) -> float | None:
        """The top-1 accuracy of the checkpoint, None where none was given."""
        return None if self.checkpoint is None else self.checkpoint.top1_percent

    @property
    def parameters_ratio(self) -> float | None:
        """Those counted over those published."""
        return _ratio(self.parameters, self.published_parameters)

    @property
    def mult_adds_ratio(self) -> float | None:
        """Those counted over those published."""
        return _ratio(self.mult_adds, self.published_mult_adds)

    @property
    def agreement(self) -> float | None:
        """The relative latency here over the published one."""
        return _ratio(self.relative, self.published_relative)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "key": self.key,
            "network": self.network,
            "parameters": self.parameters,
            "published_parameters": self.published_parameters,
            "parameters_ratio": self.parameters_ratio,
            "mult_adds": self.mult_adds,
            "published_mult_adds": self.published_mult_adds,
            "mult_adds_ratio": self.mult_adds_ratio,
            "accuracy_percent": self.accuracy_percent,
            "published_accuracy_percent": self.published_accuracy_percent,
            "published_latency_ms": self.published_latency_ms,
            "published_relative": self.published_relative,
            "latency_ms": self.latency_ms,
            "relative": self.relative,
            "agreement": self.agreement,
            "raw_latency_ms": self.raw_latency_ms,
            "boxes_share": self.boxes_share,
            "deviation": self.deviation,
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
            "measurement": None if self.measurement is None else self.measurement.to_json(),
            "raw": None if self.raw is None else self.raw.to_json(),
        }


def comparison_rows(
    rows: Sequence[PaperRow],
    timed: Sequence[ModelTiming],
    *,
    accuracies: Mapping[str, CheckpointAccuracy],
    baseline: str,
    raw: Sequence[ModelTiming] = (),
) -> list[ComparisonRow]:
    """Return a row for each of `rows`, with the latency of the same place in `timed`, which may be empty.

    `accuracies` are those measured of a trained checkpoint, by the key of a row; `baseline` is the key of the network
    that latencies are relative to; `raw` are detectors' times up to their predictions, if there are any.

    Raises:
        ConfigError: if `timed` or `raw` are of other networks.
    """
    for some in (timed, raw):
        if some and len(some) != len(rows):
            raise ConfigError(f"{len(rows)} networks must have {len(rows)} times, not {len(some)}")
    raw_times: list[ModelTiming | None] = list(raw) if raw else [None] * len(rows)
    times: list[ModelTiming | None] = list(timed) if timed else [None] * len(rows)
    ours = {row.key: None if time is None else time.latency_ms for row, time in _pair(rows, times)}
    theirs = {row.key: row.latency_ms for row in rows}
    return [
        ComparisonRow(
            key=row.key,
            network=row.name,
            parameters=row.cost.parameters,
            published_parameters=row.parameters,
            mult_adds=row.cost.mult_adds,
            published_mult_adds=row.mult_adds,
            published_accuracy_percent=row.accuracy_percent,
            published_latency_ms=row.latency_ms,
            published_relative=_ratio(row.latency_ms, theirs.get(baseline)),
            relative=_ratio(ours[row.key], ours.get(baseline)),
            deviation=row.deviation,
            checkpoint=accuracies.get(row.key),
            measurement=time,
            raw=raw_time,
        )
        for (row, time), raw_time in zip(_pair(rows, times), raw_times, strict=True)
    ]


def _pair(
    rows: Sequence[PaperRow], times: Sequence[ModelTiming | None]
) -> list[tuple[PaperRow, ModelTiming | None]]:
    return list(zip(rows, times, strict=True))


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def provenance(timed: Sequence[ModelTiming]) -> str:
    """Return where the times of a table come from, in a line; what failed is not in it."""
    latencies = [latency for entry in timed for latency in entry.latencies]
    if not latencies:
        return "nothing was timed"
    first = latencies[0]
    days = sorted({latency.measured_at[:10] for latency in latencies})
    kernels = sum(entry.kernels for entry in timed)
    trials = sum(entry.schedules for entry in timed)
    noisy = sum(latency.noisy for latency in latencies)
    text = (
        f"{first.device_key} ({first.fingerprint}), TVM {first.tvm_version}, {' to '.join(days[:1] + days[1:][-1:])}; "
        f"{_rounds_text(timed)}, {trials / max(kernels, 1):.0f} schedules a kernel; "
        f"{noisy} of {len(latencies)} measurements above a spread of {first.max_spread:.0%}"
    )
    unstable = [latency.warnings for latency in latencies if latency.warnings]
    if unstable:
        text += f"; {len(unstable)} UNSTABLE DEVICE, the first since {unstable[0][0]}"
    return f"EMULATED, not latencies: {text}" if first.emulated else text


def _rounds_text(timed: Sequence[ModelTiming]) -> str:
    rounds = max(len(entry.latencies) for entry in timed)
    if rounds == 1:
        return "one round"
    spreads = [entry.round_spread for entry in timed if entry.round_spread is not None]
    return (
        f"median of {rounds} rounds in turn (a network's lie {statistics.median(spreads):.0%} apart, "
        f"{max(spreads):.0%} at most)"
    )
