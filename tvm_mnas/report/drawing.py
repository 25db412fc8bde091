"""The common look of the pictures: paper, texts, axes, legend and colours, and how they become PNG files.

Texts are drawn as they are and never read as formulas. Nothing here touches pyplot or its global state, and
matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_SIZE_INCHES = (6.0, 4.5)

_DOTS_PER_INCH = 180

_TITLE_CHARACTERS = 64
_CAPTION_CHARACTERS = 98
_LOG_RATIO = 20.0
"""A slowest candidate this many times slower than the fastest one gets a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a picture."""

    paper: str
    ink: str
    muted: str
    grid: str
    candidate: str
    front: str
    target: str
    best: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2128",
    muted="#59636e",
    grid="#e3e7eb",
    candidate="#2f9e6e",
    front="#1f5fc4",
    target="#b4541a",
    best="#f2b500",
)

DARK = Theme(
    paper="#171b21",
    ink="#e8ecf1",
    muted="#9aa5b1",
    grid="#2b323b",
    candidate="#4cc38a",
    front="#7aaeff",
    target="#ff9a5c",
    best="#ffcf40",
)


def render_png(figure: Figure) -> bytes:
    """Return `figure` as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without matplotlib's version in it, equal figures are equal files.
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


def write_png(path: Path, content: bytes) -> None:
    """Write `content` to `path`. Raises RunError if it cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RunError(
            f"cannot write the picture {path}: {error.strerror}; "
            f"check the directory and `df -h {path.parent}`"
        ) from error


def new_axes(title: str, caption: Sequence[str], theme: Theme) -> tuple[Figure, Axes]:
    """Return a picture with its title and the lines of its caption, and the empty axes in it."""
    figure, ((axes,),) = new_grid(title, caption, theme, rows=1, columns=1)
    return figure, axes


def new_grid(
    title: str, caption: Sequence[str], theme: Theme, *, rows: int, columns: int
) -> tuple[Figure, list[list[Axes]]]:
    """Return what `new_axes` does, with `rows` of `columns` axes, each as large as the only one there."""
    from matplotlib.figure import Figure

    width, height = _SIZE_INCHES
    figure = Figure(
        figsize=(width * columns, height * rows), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    figure.set_facecolor(theme.paper)
    figure.suptitle(
        textwrap.fill(title, _TITLE_CHARACTERS * columns),
        x=0.02,
        ha="left",
        fontsize=11.5,
        fontweight="bold",
        color=theme.ink,
        parse_math=False,
    )
    figure.supxlabel(
        "\n".join(textwrap.fill(line, _CAPTION_CHARACTERS * columns) for line in caption if line),
        x=0.02,
        ha="left",
        fontsize=8,
        color=theme.muted,
        parse_math=False,
        linespacing=1.4,
    )
    grid = [
        [figure.add_subplot(rows, columns, row * columns + column + 1) for column in range(columns)]
        for row in range(rows)
    ]
    for axes in (axes for line in grid for axes in line):
        _style(axes, theme)
    return figure, grid


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.muted)
    axes.tick_params(colors=theme.muted, labelsize=9)


def set_label(axis: Axis, text: str, theme: Theme) -> None:
    """Write `text`, a quantity with its unit, beside `axis`."""
    axis.label.set(text=text, color=theme.ink, fontsize=9.5, parse_math=False)


def dot_size(count: int) -> float:
    """Smaller dots the more there are: 6 points up to a hundred, 2.5 for thousands."""
    return max(2.5, min(6.0, 6.0 - 1.75 * math.log10(max(count, 1) / 100.0)))


def spans_decades(times: Sequence[float]) -> bool:
    """Whether a linear axis would squeeze most of `times` into its left end."""
    return max(times) > _LOG_RATIO * min(times)


def scale_latency(axes: Axes, times: Sequence[float], *, logarithmic: bool) -> None:
    """Show all `times` on a linear or a logarithmic axis."""
    least, most = min(times), max(times)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.15, most * 1.15)
        plain_log(axes.xaxis)
    else:
        margin = 0.06 * (most - least) or 0.5 * most
        axes.set_xlim(max(0.0, least - margin), most + margin)


def plain_log(axis: Axis) -> None:
    """Put ticks of a logarithmic axis at 1, 2 and 5 of each decade, written without powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def bar_edges(times: Sequence[float], target: float, *, logarithmic: bool) -> list[float]:
    """Edges of equal bars that hold all `times`; a target among them is an edge."""
    forward = math.log if logarithmic else float
    backward = math.exp if logarithmic else float
    least, most, anchor = forward(min(times)), forward(max(times)), forward(target)
    # Rice's rule, which also suits few samples.
    count = min(40, max(6, math.ceil(2 * len(times) ** (1 / 3))))
    width = (most - least) / count or abs(least) * 0.05 or 0.05
    first = math.floor((least - anchor) / width)
    last = math.ceil((most - anchor) / width)
    edges = [backward(anchor + index * width) for index in range(first, max(last, first + 1) + 1)]
    # Rounding must not leave the extremes outside, where they would silently not be counted.
    edges[0], edges[-1] = min(edges[0], *times), max(edges[-1], *times)
    return edges


def use_whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def say(axes: Axes, text: str, theme: Theme) -> None:
    """Write `text` into the picture, where data would be."""
    axes.text(
        0.5,
        0.9,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=11,
        color=theme.muted,
        bbox={"facecolor": theme.paper, "edgecolor": theme.grid, "boxstyle": "round,pad=0.6"},
    )


def add_legend(axes: Axes, theme: Theme) -> None:
    """Put the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=4,
        fontsize=8,
        labelcolor=theme.ink,
        frameon=False,
        columnspacing=1.1,
        handlelength=1.7,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
