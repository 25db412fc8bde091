"""The pictures of figures 2 and 4 of the paper: the objective, and two networks at other widths and input sizes.

Figure 5's are those of every report (`figures.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvm_mnas.report.drawing import LIGHT, Theme, add_legend, new_axes, set_label
from tvm_mnas.search.reward import Reward

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = 0.5
TARGET_MS = 80.0
_RANGE_MS = (20, 200)
_STEP_MS = 2
_PRINTED_MS = (40, 60, 80, 100, 120, 160)


def objectives() -> dict[str, Reward]:
    """Return the two objectives of figure 2 by what they are called there."""
    return {
        "alpha=0, beta=-1": Reward.hard(TARGET_MS),
        "alpha=beta=-0.07": Reward.soft(TARGET_MS),
    }


def objective_rows() -> list[dict[str, Any]]:
    """Return both objectives at a few latencies (equation 2), the accuracy 0.5 and the target 80 ms."""
    return [
        {
            "latency_ms": latency_ms,
            **{name: reward(ACCURACY, latency_ms) for name, reward in objectives().items()},
        }
        for latency_ms in _PRINTED_MS
    ]


def objective_figure(*, theme: Theme = LIGHT) -> Figure:
    """Return figure 2: both objectives over the latency."""
    figure, axes = new_axes(
        "The objective (equation 2)",
        [f"Accuracy {ACCURACY}, target T = {TARGET_MS:g} ms."],
        theme,
    )
    set_label(axes.xaxis, "latency (ms)", theme)
    set_label(axes.yaxis, "objective", theme)
    times = range(*_RANGE_MS, _STEP_MS)
    for (name, reward), colour in zip(
        objectives().items(), (theme.front, theme.candidate), strict=True
    ):
        axes.plot(times, [reward(ACCURACY, time) for time in times], color=colour, label=name)
    axes.axvline(TARGET_MS, color=theme.target, linestyle="--", label="target")
    axes.set_ylim(0.0, None)
    add_legend(axes, theme)
    return figure


def scaling_figure(
    rows: Sequence[Mapping[str, Any]], *, device: str, emulated: bool, theme: Theme = LIGHT
) -> Figure:
    """Return the latencies of scaled networks over their mult-adds (the sizes of figure 4).

    A row has the `network`, the `scale`, its `mult_adds` and `latency_ms`, None where it has none.
    """
    heading = f"Scaled networks on {device}"
    caption = "Each dot is a depth multiplier and an input size. Accuracies are not drawn: nothing was trained."
    figure, axes = new_axes(heading, [caption], theme)
    set_label(axes.xaxis, "mult-adds (millions)", theme)
    set_label(axes.yaxis, "emulated ms, no latency" if emulated else "latency (ms)", theme)
    names = list(dict.fromkeys(str(row["network"]) for row in rows))
    for name, colour in zip(names, (theme.front, theme.candidate), strict=False):
        points = sorted(
            (row["mult_adds"] / 1e6, row["latency_ms"])
            for row in rows
            if row["network"] == name and row["latency_ms"] is not None
        )
        if points:
            counts, times = zip(*points, strict=True)
            axes.plot(counts, times, "o-", color=colour, label=name)
    if any(row["latency_ms"] is not None for row in rows):
        axes.set_xscale("log")
        axes.set_yscale("log")
        add_legend(axes, theme)
    return figure
