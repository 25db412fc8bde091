"""The pictures of a search: the Pareto front and the latency histogram of the paper's figure 5.

A `*_figure` function builds a matplotlib `Figure` from the trials of a run, a `plot_*` function writes it as a
PNG file. Nothing here touches pyplot or its global state, and matplotlib is imported inside the functions. A
picture of a run without results says so. Times of an emulator are labelled as not being latencies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.report.captions import new_picture, say_if_few
from tvm_mnas.report.drawing import (
    LIGHT,
    Theme,
    add_legend,
    bar_edges,
    dot_size,
    render_png,
    scale_latency,
    set_label,
    spans_decades,
    use_whole_numbers,
    write_png,
)
from tvm_mnas.report.trials import (
    EMULATED,
    accuracy_name,
    best_record,
    is_emulated,
    measured,
    pareto_records,
)
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 25
"""A front with more members than this is drawn without the bars that show their uncertainty."""


def plot_pareto(
    records: Sequence[TrialRecord],
    reward: Reward,
    path: Path,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
) -> None:
    """Write `pareto_figure` to the PNG file `path`. Raises RunError if it cannot be written."""
    write_png(path, render_png(pareto_figure(records, reward, finalists=finalists, best=best)))


def plot_latency_histogram(records: Sequence[TrialRecord], reward: Reward, path: Path) -> None:
    """Write `latency_histogram_figure` to the PNG file `path`. Raises RunError if it cannot be written."""
    write_png(path, render_png(latency_histogram_figure(records, reward)))


def pareto_figure(
    records: Sequence[TrialRecord],
    reward: Reward,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Return accuracy over latency of every measured candidate, with the Pareto front (figure 5, top).

    `finalists` and `best` are trial numbers; those that were not measured are not drawn. The dotted curve joins
    what is worth as much as the best candidate.
    """
    bars = len(pareto_records(records)) <= _MOST_BARS
    notes = [_describe(reward), _describe_uncertainty(records, bars=bars)]
    figure, axes = new_picture("Accuracy and latency", records, theme, notes=notes)
    draw_pareto(axes, records, reward, finalists=finalists, best=best, theme=theme)
    return figure


def draw_pareto(
    axes: Axes,
    records: Sequence[TrialRecord],
    reward: Reward,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
    theme: Theme = LIGHT,
) -> None:
    """Draw what `pareto_figure` shows into `axes`."""
    candidates = measured(records)
    front = pareto_records(records)
    _label_latency(axes, records, theme)
    set_label(axes.yaxis, accuracy_name(records), theme)
    steady, noisy = (
        [r for r in candidates if r.evaluation.latency and r.evaluation.latency.noisy is is_noisy]
        for is_noisy in (False, True)
    )
    size = dot_size(len(candidates))
    _draw_dots(axes, steady, label="candidate", filled=True, size=size, theme=theme)
    _draw_dots(axes, noisy, label="noisy latency", filled=False, size=size, theme=theme)
    if front:
        _draw_front(axes, front, theme)
    rings = [r for r in records if r.number in finalists and r.reward is not None]
    if rings:
        axes.plot(
            *_coordinates(rings), "o", ms=11, mfc="none", mec=theme.ink, mew=1.2, label="finalist"
        )
    star = best_record(records, best)
    if star is not None:
        axes.plot(
            *_coordinates([star]),
            "*",
            ms=15,
            color=theme.best,
            mec=theme.ink,
            mew=0.8,
            zorder=5,
            label=f"best: trial {star.number}",
        )
    _draw_target(axes, reward, theme)
    times = [*_coordinates(candidates)[0], reward.target_latency_ms]
    scale_latency(axes, times, logarithmic=spans_decades(times))
    if not candidates:
        axes.set_ylim(0.0, 100.0)
    if star is not None and star.reward is not None and len(candidates) > 1:
        _draw_equal_reward(axes, reward, star.reward, theme)
    say_if_few(axes, len(candidates), "a front needs two", theme)
    if candidates:
        add_legend(axes, theme)


def latency_histogram_figure(
    records: Sequence[TrialRecord], reward: Reward, *, theme: Theme = LIGHT
) -> Figure:
    """Return the histogram of the latencies of every measured candidate (figure 5, bottom).

    The target is an edge between two bars, so that what meets it can be told from what does not.
    """
    figure, axes = new_picture("Latencies", records, theme, notes=(_describe(reward),))
    draw_latency_histogram(axes, records, reward, theme=theme)
    return figure


def draw_latency_histogram(
    axes: Axes, records: Sequence[TrialRecord], reward: Reward, *, theme: Theme = LIGHT
) -> None:
    """Draw what `latency_histogram_figure` shows into `axes`."""
    _label_latency(axes, records, theme)
    set_label(axes.yaxis, "distinct candidates", theme)
    candidates = measured(records)
    times = _coordinates(candidates)[0]
    target = reward.target_latency_ms
    logarithmic = spans_decades([*times, target])
    edges = bar_edges(times, target, logarithmic=logarithmic) if times else []
    _draw_target(axes, reward, theme)
    if times:
        within = [time for time in times if time <= target]
        beyond = [time for time in times if time > target]
        axes.hist(
            [within, beyond],
            bins=edges,
            stacked=True,
            color=[theme.candidate, theme.muted],
            edgecolor=theme.paper,
            linewidth=0.8,
            label=[f"within the target: {len(within):,}", f"slower: {len(beyond):,}"],
        )
        axes.margins(y=0.3 if len(times) == 1 else 0.05)
    else:
        axes.set_ylim(0.0, 1.0)
    use_whole_numbers(axes.yaxis)
    scale_latency(axes, [*edges, target], logarithmic=logarithmic)
    say_if_few(axes, len(candidates), "a histogram needs more", theme)
    if candidates:
        add_legend(axes, theme)


def _describe(reward: Reward) -> str:
    target = f"{reward.target_latency_ms:g} ms"
    exponents = (
        f"{reward.alpha:g}"
        if reward.alpha == reward.beta
        else f"{reward.alpha:g} up to T and {reward.beta:g} beyond"
    )
    return f"Reward: accuracy x (latency / T)^w with T = {target}, w = {exponents}."


def _describe_uncertainty(records: Sequence[TrialRecord], *, bars: bool) -> str:
    accuracies = [r.evaluation.accuracy for r in measured(records) if r.evaluation.accuracy]
    splits = {f"{accuracy.samples:,} {accuracy.split}" for accuracy in accuracies}
    images = f" on {splits.pop()} images" if len(splits) == 1 else ""
    if bars:
        return f"Bars: standard error of the accuracy{images}, interquartile range of the time."
    return f"Accuracy{images}." if images else ""


def _label_latency(axes: Axes, records: Sequence[TrialRecord], theme: Theme) -> None:
    name = f"time per inference (ms), {EMULATED}" if is_emulated(records) else "latency (ms)"
    set_label(axes.xaxis, name, theme)


def _coordinates(records: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
    """Latencies in ms and accuracies in percent of `records`, leaving out those that failed."""
    objectives = [r.evaluation.objectives for r in records if r.evaluation.objectives is not None]
    return [latency_ms for _, latency_ms in objectives], [100.0 * top1 for top1, _ in objectives]


def _draw_dots(
    axes: Axes,
    records: Sequence[TrialRecord],
    *,
    label: str,
    filled: bool,
    size: float,
    theme: Theme,
) -> None:
    if records:
        axes.plot(
            *_coordinates(records),
            "o",
            ms=size,
            mfc=theme.candidate if filled else "none",
            mec="none" if filled else theme.candidate,
            alpha=0.75,
            label=label,
        )


def _draw_front(axes: Axes, front: Sequence[TrialRecord], theme: Theme) -> None:
    """The front as a staircase: what lies below and right of it is dominated."""
    times, accuracies = _coordinates(front)
    if len(front) <= _MOST_BARS:
        half_ranges, errors = [], []
        for record in front:
            latency, accuracy = record.evaluation.latency, record.evaluation.accuracy
            assert latency is not None
            assert accuracy is not None
            half_ranges.append(latency.spread * latency.latency_ms / 2)
            errors.append(100.0 * accuracy.standard_error)
        axes.errorbar(
            times,
            accuracies,
            xerr=half_ranges,
            yerr=errors,
            fmt="none",
            ecolor=theme.front,
            elinewidth=0.9,
            alpha=0.55,
            zorder=3,
        )
    axes.plot(
        times,
        accuracies,
        "o-",
        drawstyle="steps-post",
        color=theme.front,
        lw=1.6,
        ms=4.5 if len(front) <= _MOST_BARS else 3.0,
        zorder=4,
        label="Pareto front",
        gid="pareto-front",
    )


def _draw_target(axes: Axes, reward: Reward, theme: Theme) -> None:
    axes.axvline(
        reward.target_latency_ms,
        color=theme.target,
        lw=1.3,
        ls=(0, (5, 3)),
        zorder=2.5,
        label=f"target: {reward.target_latency_ms:g} ms",
        gid="target",
    )


def _draw_equal_reward(axes: Axes, reward: Reward, value: float, theme: Theme) -> None:
    """The accuracies that earn `value`, over the latencies in view (equation 2, solved for ACC)."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    first = max(left, right / 1e4)
    times = [first * (right / first) ** (step / 200) for step in range(201)]
    worth = [100.0 * value / reward(1.0, time) for time in times]
    axes.plot(times, worth, ":", color=theme.ink, lw=1.1, zorder=2, label=f"reward {value:.4g}")
    axes.set(xlim=(left, right), ylim=(bottom, top))
