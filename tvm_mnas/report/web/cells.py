"""How the values of a page are shown."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mnas.devices.core.latency import format_percent, untuned_flag
from tvm_mnas.report.rows import CandidateRow
from tvm_mnas.report.trials import EMULATED


def show_ms(value: float) -> str:
    """Return a time in milliseconds."""
    return f"{value:.4g} ms"


def show_tiny(value: float) -> str:
    """Return a number far below 1."""
    return f"{value:.1e}"


def show_seconds(value: float) -> str:
    """Return a duration in the unit that suits it."""
    if value >= 6000:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 100 else f"{value:.1f} s"


def show_accuracy(row: CandidateRow) -> str:
    """Return the accuracy of a candidate with its standard error."""
    return f"{row.accuracy_percent:.2f} ± {row.accuracy_error_percent:.2f}%"


def show_spread(row: CandidateRow) -> str:
    """Return the spread of a latency with what stands against it."""
    warnings = "".join(f", {warning}" for warning in row.warnings)
    first_ms = row.first_latency_ms
    again = "" if first_ms is None else f", measured again ({show_ms(first_ms)} at first)"
    return f"{row.spread_percent:.1f}%{' noisy' if row.noisy else ''}{warnings}{again}"


def show_untuned(row: CandidateRow) -> str:
    """Return how much of a network is untuned, with a comma before it, nothing where all is tuned."""
    flag = untuned_flag(row.untuned_percent)
    return f", {flag}" if flag else ""


def show_share(value: float) -> str:
    """Return a part (0..1) of a whole."""
    return "all of it" if value == 1 else f"all but {format_percent(100.0 * (1.0 - value))}%"


def show_trials(numbers: Sequence[int], *, most: int = 12) -> str:
    """Return trial numbers, `most` of them at most."""
    text = ", ".join(str(number) for number in numbers[:most])
    return f"{text}, …" if len(numbers) > most else text


def show_range(values: Sequence[float] | None, unit: str) -> str:
    """Return the least and the most of some values, once where they are one."""
    if values is None:
        return "unknown"
    least, most = (f"{value:.4g}" for value in values)
    return f"{least}{unit}" if least == most else f"{least} to {most}{unit}"


def time_word(row: CandidateRow) -> str:
    """Return what the time of a candidate is called."""
    return EMULATED if row.emulated else "latency"
