"""The paper's figures 2, 4, 5 and 6: their rows, and their pictures.

No accuracy on ImageNet is ours: where a public source prints one it stands in a row with that source. Times of an
emulator are labelled as not being latencies. Matplotlib is imported by `drawing.py` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_mnas.devices.core.latency import untuned_flag
from tvm_mnas.errors import ConfigError
from tvm_mnas.report.drawing import (
    LIGHT,
    Theme,
    add_legend,
    new_axes,
    new_grid,
    plain_log,
    scale_latency,
    set_label,
    spans_decades,
)
from tvm_mnas.report.figures import draw_latency_histogram, draw_pareto
from tvm_mnas.report.trials import (
    EMULATED,
    device_keys,
    is_emulated,
    measured,
    pareto_records,
    worst_untuned_percent,
)
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.workflows.compare import ModelTiming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tvm_mnas.models.cost import Cost

NETWORKS = {"mobilenet-v2": "MobileNetV2", "mnasnet": "MnasNet"}

MULTIPLIERS = (0.35, 0.5, 0.75, 1.0, 1.4)
SIZES = (96, 128, 160, 192, 224)

TOP1_SOURCE = "github.com/tensorflow/models, research/slim/nets/mobilenet/README.md"
"""Prints MobileNetV2's accuracies; the paper only draws those of a scaled MnasNet."""

_TOP1_PERCENT = {
    ("mobilenet-v2", 0.35, 224): 60.3,
    ("mobilenet-v2", 0.5, 160): 61.0,
    ("mobilenet-v2", 0.5, 192): 63.9,
    ("mobilenet-v2", 0.5, 224): 65.4,
    ("mobilenet-v2", 0.75, 224): 69.8,
    ("mobilenet-v2", 1.0, 96): 60.3,
    ("mobilenet-v2", 1.0, 128): 65.3,
    ("mobilenet-v2", 1.0, 160): 68.8,
    ("mobilenet-v2", 1.0, 192): 70.7,
    ("mobilenet-v2", 1.0, 224): 71.8,
    ("mobilenet-v2", 1.4, 224): 75.0,
}

_ACCURACY = 0.5
_TARGET_MS = 80.0
_NOT_OURS = "Accuracy on ImageNet is not measured here."


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPoint:
    """A network of `NETWORKS`, its depth multiplier, and the height and width of its input."""

    network: str
    multiplier: float
    size: int

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ConfigError(f"figures 4 and 6 scale {', '.join(NETWORKS)}, not {self.network!r}")

    @property
    def model(self) -> str:
        """The network as it is typed, such as `mnasnet@0.5,160`."""
        return f"{self.network}@{self.multiplier:g},{self.size}"

    @property
    def top1_percent(self) -> float | None:
        """Its top-1 accuracy on ImageNet that `TOP1_SOURCE` prints, None where that prints none."""
        return _TOP1_PERCENT.get((self.network, self.multiplier, self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRow:
    """A scaled network: its counts, its latency here (None where it failed), and its published accuracy."""

    model: str
    network: str
    multiplier: float
    input_size: int
    parameters: int
    mult_adds: int
    published_top1_percent: float | None
    measurement: ModelTiming

    @property
    def latency_ms(self) -> float | None:
        """The median of the rounds' latencies, None where it failed."""
        return self.measurement.latency_ms

    @property
    def emulated(self) -> bool:
        """Whether the times are an emulator's, which are no latencies."""
        return self.measurement.emulated

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "network": self.network,
            "multiplier": self.multiplier,
            "input_size": self.input_size,
            "parameters": self.parameters,
            "mult_adds": self.mult_adds,
            "latency_ms": self.latency_ms,
            "emulated": self.emulated,
            "failure": self.measurement.failure,
            "published_top1_percent": self.published_top1_percent,
            "source": None if self.published_top1_percent is None else TOP1_SOURCE,
            "measurement": self.measurement.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRow:
    """How many distinct candidates a run measured, how many lie within 10% of its target, and its front."""

    run: str
    alpha: float
    beta: float
    target_latency_ms: float
    emulated: bool
    measured: int
    near_target: int
    pareto: int


def figure4_points() -> list[ScaledPoint]:
    """Return figure 4's networks, each once: all multipliers at 224, then all other sizes at multiplier 1."""
    scales = [(multiplier, 224) for multiplier in MULTIPLIERS]
    scales += [(1.0, size) for size in SIZES if size != 224]
    return _points(scales)


def figure6_points() -> list[ScaledPoint]:
    """Return figure 6's scaled networks."""
    return _points([(0.5, 160), (0.5, 192)])


def scaled_rows(
    points: Sequence[ScaledPoint], costs: Sequence[Cost], timed: Sequence[ModelTiming]
) -> list[ScaledRow]:
    """Return a row for each of `points`."""
    return [
        ScaledRow(
            model=point.model,
            network=NETWORKS[point.network],
            multiplier=point.multiplier,
            input_size=point.size,
            parameters=cost.parameters,
            mult_adds=cost.mult_adds,
            published_top1_percent=point.top1_percent,
            measurement=entry,
        )
        for point, cost, entry in zip(points, costs, timed, strict=True)
    ]


def objective_rows() -> list[dict[str, float]]:
    """Return figure 2: equation 2 for an accuracy of 0.5 and T = 80 ms, at 40 to 160 ms."""
    hard, soft = Reward.hard(_TARGET_MS), Reward.soft(_TARGET_MS)
    return [
        {
            "latency_ms": float(time),
            "hard": hard(_ACCURACY, time),
            "soft": soft(_ACCURACY, time),
        }
        for time in range(40, 161, 5)
    ]


def search_row(name: str, records: Sequence[TrialRecord], reward: Reward) -> SearchRow:
    """Return what a run measured."""
    times = [latency_ms for latency_ms, _ in _measured_points(measured(records))]
    target = reward.target_latency_ms
    return SearchRow(
        run=name,
        alpha=reward.alpha,
        beta=reward.beta,
        target_latency_ms=target,
        emulated=is_emulated(records),
        measured=len(times),
        near_target=sum(0.9 * target <= time <= 1.1 * target for time in times),
        pareto=len(pareto_records(records)),
    )


def objective_figure(*, theme: Theme = LIGHT) -> Figure:
    """Return figure 2: the hard constraint above, the soft one below."""
    title = "Objective of equation 2, accuracy 0.5, T = 80 ms"
    figure, grid = new_grid(title, ["Computed, not measured."], theme, rows=2, columns=1)
    times = [40.0 + step / 2 for step in range(241)]
    for (axes,), reward in zip(
        grid, (Reward.hard(_TARGET_MS), Reward.soft(_TARGET_MS)), strict=True
    ):
        values = [reward(_ACCURACY, time) for time in times]
        axes.plot(times, values, color=theme.front, label=_exponents(reward))
        axes.axvline(_TARGET_MS, color=theme.target, ls="--", lw=1.2, label="T")
        set_label(axes.xaxis, "latency (ms)", theme)
        set_label(axes.yaxis, "objective", theme)
        add_legend(axes, theme)
    return figure


def scaling_figure(rows: Sequence[ScaledRow], device: str, *, theme: Theme = LIGHT) -> Figure:
    """Return figure 4 from `scaled_rows`: latency over depth multiplier (a) and over input size (b)."""
    emulated = any(row.emulated for row in rows)
    title = f"Scaled networks on {device}" + (f" ({EMULATED})" if emulated else "")
    figure, ((left, right),) = new_grid(title, [_NOT_OURS], theme, rows=1, columns=2)
    of_depth = [row for row in rows if row.input_size == 224]
    of_size = [row for row in rows if row.multiplier == 1.0]
    _draw_scaling(left, of_depth, "multiplier", "depth multiplier, input 224", emulated, theme)
    _draw_scaling(right, of_size, "input_size", "input size, multiplier 1", emulated, theme)
    return figure


def searches_figure(
    runs: Sequence[tuple[str, Sequence[TrialRecord], Reward]], *, theme: Theme = LIGHT
) -> Figure:
    """Return figure 5: a column for each run's name, trials and reward; the front above, the histogram below."""
    flags = {name: untuned_flag(worst_untuned_percent(trials)) for name, trials, _ in runs}
    caption = ["Accuracies are those of a short training on the run's own images, not ImageNet's."]
    caption += [f"{name}, latency: up to {flag}." for name, flag in flags.items() if flag]
    title = "Multi-objective search results"
    figure, (tops, bottoms) = new_grid(title, caption, theme, rows=2, columns=len(runs))
    for top, bottom, (name, records, reward) in zip(tops, bottoms, runs, strict=True):
        label = f" ({EMULATED})" if is_emulated(records) else ""
        keys = ", ".join(device_keys(records))
        heading = f"{name}: {_exponents(reward)}\n{keys}{label}".rstrip()
        top.set_title(heading, fontsize=10, color=theme.ink, pad=36, parse_math=False)
        draw_pareto(top, records, reward, theme=theme)
        draw_latency_histogram(bottom, records, reward, theme=theme)
    return figure


def scale_or_search_figure(
    rows: Sequence[ScaledRow],
    device: str,
    front: Sequence[TrialRecord] = (),
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Return figure 6: published accuracy over latency of `rows`, and proxy accuracy over latency of `front`.

    A scaled network without a published accuracy is a vertical line at its latency.
    """
    emulated = any(row.emulated for row in rows) or is_emulated(front)
    title = f"Scaling and searching on {device}" + (f" ({EMULATED})" if emulated else "")
    caption = [
        _NOT_OURS + " Dots of MobileNetV2: " + TOP1_SOURCE + ".",
        "MnasNet's scaled accuracies are not published as numbers: lines show its latencies.",
    ]
    if front:
        caption.append("A new search's proxy accuracy cannot be compared with ImageNet's.")
    figure, axes = new_axes(title, caption, theme)
    known = [
        (row.latency_ms, row.published_top1_percent)
        for row in rows
        if row.latency_ms is not None and row.published_top1_percent is not None
    ]
    if known:
        axes.plot(
            [latency_ms for latency_ms, _ in known],
            [percent for _, percent in known],
            "o-",
            color=theme.candidate,
            label="MobileNetV2 scaled (published)",
        )
    label: str | None = "MnasNet scaled (latency only)"
    for row in rows:
        if row.latency_ms is not None and row.published_top1_percent is None:
            axes.axvline(row.latency_ms, color=theme.front, ls=":", label=label)
            label = None
    if front:
        points = _measured_points(front)
        axes.plot(
            [time for time, _ in points],
            [percent for _, percent in points],
            "*-",
            color=theme.best,
            label="new search (proxy accuracy, not ImageNet)",
        )
    times = [row.latency_ms for row in rows if row.latency_ms is not None]
    times += [time for time, _ in _measured_points(front)]
    if times:
        scale_latency(axes, times, logarithmic=spans_decades(times))
    _label_time(axes, "x", emulated, theme)
    set_label(axes.yaxis, "top-1 accuracy (%)", theme)
    if times:
        axes.legend(fontsize=8, labelcolor=theme.ink, frameon=False)
    return figure


def _points(scales: Sequence[tuple[float, int]]) -> list[ScaledPoint]:
    return [
        ScaledPoint(network=network, multiplier=multiplier, size=size)
        for network in NETWORKS
        for multiplier, size in scales
    ]


def _measured_points(records: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """Latency in ms and accuracy in percent of each of `records` that has both."""
    objectives = [record.evaluation.objectives for record in records]
    return [(pair[1], 100.0 * pair[0]) for pair in objectives if pair is not None]


def _exponents(reward: Reward) -> str:
    return f"alpha = {reward.alpha:g}, beta = {reward.beta:g}"


def _label_time(axes: Axes, side: str, emulated: bool, theme: Theme) -> None:
    text = f"time per inference (ms), {EMULATED}" if emulated else "latency (ms)"
    set_label(axes.xaxis if side == "x" else axes.yaxis, text, theme)


def _draw_scaling(
    axes: Axes, rows: Sequence[ScaledRow], key: str, label: str, emulated: bool, theme: Theme
) -> None:
    for name, colour in zip(NETWORKS.values(), (theme.candidate, theme.front), strict=True):
        shown = sorted(
            (getattr(row, key), row.latency_ms)
            for row in rows
            if row.network == name and row.latency_ms is not None
        )
        if shown:
            xs, ys = zip(*shown, strict=True)
            axes.plot(xs, ys, "o-", color=colour, label=name)
    if axes.lines:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        add_legend(axes, theme)
    set_label(axes.xaxis, label, theme)
    _label_time(axes, "y", emulated, theme)
