"""The pictures of a search over time: its rewards, and the kernels that each candidate brought."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.report.captions import new_picture, say_if_few
from tvm_mnas.report.drawing import (
    LIGHT,
    Theme,
    add_legend,
    dot_size,
    render_png,
    say,
    set_label,
    use_whole_numbers,
    write_png,
)
from tvm_mnas.report.rows import kernel_rows
from tvm_mnas.report.trials import EMULATED, is_emulated, measured
from tvm_mnas.search.run import TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_GROUPS = 120

"""More candidates than this share a column of the tuning picture."""


def plot_progress(records: Sequence[TrialRecord], path: Path) -> None:
    """Write `progress_figure` to the PNG file `path`. Raises RunError if it cannot be written."""
    write_png(path, render_png(progress_figure(records)))


def plot_tuning(records: Sequence[TrialRecord], path: Path) -> None:
    """Write `tuning_figure` to the PNG file `path`. Raises RunError if it cannot be written."""
    write_png(path, render_png(tuning_figure(records)))


def progress_figure(records: Sequence[TrialRecord], *, theme: Theme = LIGHT) -> Figure:
    """Return the reward of every trial, the best one so far, and which trials failed."""
    figure, axes = new_picture("Progress of the search", records, theme)
    set_label(axes.xaxis, "trial", theme)
    of_emulator = f" ({EMULATED})" if is_emulated(records) else ""
    set_label(axes.yaxis, f"reward{of_emulator}", theme)
    for label, filled, repeated in (("candidate", True, False), ("met before", False, True)):
        shown = [r for r in records if r.reward is not None and (r.repeats is not None) is repeated]
        if shown:
            axes.plot(
                [r.number for r in shown],
                [r.reward for r in shown if r.reward is not None],
                "o",
                ms=dot_size(len(records)),
                mfc=theme.candidate if filled else "none",
                mec="none" if filled else theme.candidate,
                alpha=0.75,
                label=label,
            )
    numbers, best = _best_so_far(records)
    if numbers:
        axes.step(numbers, best, where="post", color=theme.front, lw=1.8, label="best so far")
    failed = [r.number for r in records if r.reward is None]
    if failed:
        axes.plot(
            failed,
            [0.03] * len(failed),
            "x",
            transform=axes.get_xaxis_transform(),
            color=theme.target,
            ms=dot_size(len(records)) - 1.0,
            label="failed: no reward",
        )
    use_whole_numbers(axes.xaxis)
    say_if_few(axes, len(measured(records)), "progress needs two", theme)
    if records:
        add_legend(axes, theme)
    return figure


def tuning_figure(records: Sequence[TrialRecord], *, theme: Theme = LIGHT) -> Figure:
    """Return how many kernels each distinct candidate has, and how many of them no record existed for."""
    rows = kernel_rows(records)
    size = max(1, math.ceil(len(rows) / _MOST_GROUPS))
    note = (
        "A candidate that failed before its kernels were known has no bar."
        if size == 1
        else f"Each column is the mean of {size} candidates."
    )
    figure, axes = new_picture("Kernels tuned per candidate", records, theme, notes=(note,))
    set_label(axes.xaxis, "distinct candidate, in the order of evaluation, from 0", theme)
    set_label(axes.yaxis, "kernels", theme)
    if rows:
        groups = [rows[first : first + size] for first in range(0, len(rows), size)]
        # From 0, as trials are counted everywhere.
        edges = [-0.5, *(min(len(rows), size * (i + 1)) - 0.5 for i in range(len(groups)))]
        for key, colour, label in (
            ("kernels", theme.grid, "had a record already"),
            ("kernels_tuned", theme.front, "tuned for this candidate"),
        ):
            heights = [sum(getattr(row, key) for row in group) / len(group) for group in groups]
            axes.stairs(heights, edges, fill=True, color=colour, label=label)
        axes.set_xlim(edges[0], edges[-1])
        add_legend(axes, theme)
    else:
        say(axes, "No candidate was evaluated yet.", theme)
    use_whole_numbers(axes.xaxis)
    use_whole_numbers(axes.yaxis)
    return figure


def _best_so_far(records: Sequence[TrialRecord]) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    best: list[float] = []
    for record in records:
        if record.reward is not None:
            numbers.append(record.number)
            best.append(max(record.reward, best[-1] if best else record.reward))
    if numbers and records[-1].number > numbers[-1]:
        numbers.append(records[-1].number)
        best.append(best[-1])
    return numbers, best
