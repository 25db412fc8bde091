"""What every picture of a run says of it: the device in its title, the trials that it counts below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm_mnas.devices.core.latency import untuned_flag
from tvm_mnas.report.drawing import Theme, new_axes, say
from tvm_mnas.report.trials import (
    EMULATED,
    count_trials,
    device_keys,
    is_emulated,
    worst_untuned_percent,
)
from tvm_mnas.search.run import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_KEY_CHARACTERS = 40


def new_picture(
    title: str, records: Sequence[TrialRecord], theme: Theme, *, notes: Sequence[str] = ()
) -> tuple[Figure, Axes]:
    """Return empty axes under a title that names the device, over a caption that counts the trials."""
    keys = ", ".join(_shorten(key) for key in device_keys(records))
    heading = f"{title} on {keys}" if keys else title
    if is_emulated(records):
        heading += f" ({EMULATED})"
    flag = untuned_flag(worst_untuned_percent(records))
    flags = [f"Latency: up to {flag}."] if flag else []
    return new_axes(heading, [_count_text(records), *notes, *flags], theme)


def say_if_few(axes: Axes, count: int, need: str, theme: Theme) -> None:
    """Say in the picture what it lacks, where `count` measured candidates are too few."""
    if count == 0:
        say(axes, "No candidate was measured yet.", theme)
    elif count == 1:
        say(axes, f"Only one candidate was measured; {need}.", theme)


def _shorten(key: str) -> str:
    line = " ".join(key.split())
    return line if len(line) <= _MOST_KEY_CHARACTERS else f"{line[: _MOST_KEY_CHARACTERS - 1]}…"


def _count_text(records: Sequence[TrialRecord]) -> str:
    counts = count_trials(records)
    return (
        f"{counts.candidates:,} distinct candidate{_plural(counts.candidates)} in "
        f"{counts.trials:,} trial{_plural(counts.trials)}: {counts.measured:,} measured, "
        f"{counts.failed:,} failed."
    )


def _plural(count: int) -> str:
    return "" if count == 1 else "s"
