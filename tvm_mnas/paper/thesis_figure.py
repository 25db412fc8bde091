"""The picture of the thesis: what searches regret, and how each stand-in orders networks and misjudges operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm_mnas.evaluation.tables.table import EvaluationTable
from tvm_mnas.paper.stand_ins import STAND_INS, operation_effects, stand_ins_ms
from tvm_mnas.paper.thesis import REWARDS, Verdict
from tvm_mnas.report.drawing import LIGHT, Theme, new_grid, plain_log, set_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "mult-adds": "#b4541a",
    "parameters": "#8a4fc4",
    "untuned": "#c43d3d",
    "forecast": "#2f9e6e",
    "tuned": "#1f5fc4",
}
_MARKS = {"soft": "o", "hard": "s"}


def thesis_figure(
    verdicts: Sequence[Verdict], tables: Sequence[EvaluationTable], *, seed: int
) -> Figure:
    """Return one picture: regrets of the first table, and for each of `tables` order and operations."""
    caption = [
        "Left: regret of the picks, median and quartiles over seeds and targets; o soft, s hard constraint. "
        + " ".join(
            f"{table.name}: {len(table.entries)} networks, {table.manifest.device.device_key} "
            f"({table.manifest.cpu}), {table.manifest.timed[0][:10]}."
            for table in tables
        ),
        "Right: what a change of one block's operation costs by each stand-in, with the standard error of the fit.",
    ]
    figure, grid = new_grid(
        "What a search is told in place of the tuned latency",
        caption,
        LIGHT,
        rows=len(tables),
        columns=3,
    )
    for row, table in zip(grid, tables, strict=True):
        if row is grid[0]:
            _draw_regrets(row[0], verdicts, LIGHT)
        else:
            row[0].set_axis_off()
        _draw_order(row[1], table, seed, LIGHT)
        _draw_effects(row[2], table, seed, LIGHT)
    return figure


def _draw_regrets(axes: Axes, verdicts: Sequence[Verdict], theme: Theme) -> None:
    for place, name in enumerate(STAND_INS):
        for shift, reward in zip((-0.12, 0.12), REWARDS, strict=True):
            mine = next(v for v in verdicts if (v.stand_in, v.reward) == (name, reward))
            low, high = mine.regret_quartiles_percent
            axes.plot([place + shift] * 2, [low, high], color=_COLOURS[name], lw=2)
            axes.plot(
                place + shift, mine.regret_percent, _MARKS[reward], color=_COLOURS[name], ms=7
            )
    axes.set_xticks(range(len(STAND_INS)), STAND_INS)
    axes.set_ylim(bottom=0)
    set_label(axes.yaxis, "regret of the pick (%)", theme)


def _draw_order(axes: Axes, table: EvaluationTable, seed: int, theme: Theme) -> None:
    truth = [table.entry_ms(entry) for entry in table.entries]
    for name, values in stand_ins_ms(table, seed=seed).items():
        told = [values[entry.notation] for entry in table.entries]
        axes.plot(truth, told, ".", ms=3.5, color=_COLOURS[name], alpha=0.6, label=name)
    least, most = min(truth), max(truth)
    axes.plot([least, most], [least, most], color=theme.muted, lw=0.8)
    for set_scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        set_scale("log")
        plain_log(axis)
    set_label(axes.xaxis, f"tuned latency (ms), {table.name}", theme)
    set_label(axes.yaxis, "stand-in, at the same mean (ms)", theme)
    axes.legend(fontsize=8, frameon=False, labelcolor=theme.ink, markerscale=2.5)


def _draw_effects(axes: Axes, table: EvaluationTable, seed: int, theme: Theme) -> None:
    effects = operation_effects(table, seed=seed)
    changes = list(dict.fromkeys(effect.change for effect in effects))
    for effect in effects:
        place = changes.index(effect.change) + 0.13 * (STAND_INS.index(effect.name) - 2)
        axes.errorbar(
            effect.percent,
            place,
            xerr=effect.error_percent,
            fmt="o",
            ms=4,
            lw=1,
            color=_COLOURS[effect.name],
        )
    axes.axvline(0, color=theme.muted, lw=0.8)
    axes.set_yticks(range(len(changes)), changes, fontsize=8)
    axes.invert_yaxis()
    set_label(axes.xaxis, f"longer by, for one block (%), {table.name}", theme)
