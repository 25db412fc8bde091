"""How the command line looks: progress, lines per trial and tables. Decides nothing; `cli.py` does."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tvm_mnas.search.run import TrialRecord

_WIDEST = 400
_LEAST_FOR_PACE = 3
"""After so many trials a display says what is left."""

OUTPUT = Console(highlight=False, soft_wrap=True)
"""Where results go."""

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)
"""Where progress and errors go, so that `--json` on standard output stays clean."""


def format_ms(latency_ms: float) -> str:
    """Return a latency with three significant digits and its unit."""
    return f"{latency_ms:.3g} ms" if latency_ms < 100 else f"{latency_ms:.0f} ms"


def format_count(count: int) -> str:
    """Return a count with three significant digits in thousands, millions or billions."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, the key of its value in a row, whether it holds numbers, whether it may wrap."""

    heading: str
    key: str
    number: bool = True
    wraps: bool = False


def print_table(
    title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], *, as_json: bool
) -> None:
    """Print `rows` as a table, or as one JSON document with every key of every row."""
    if as_json:
        print_json(rows)
        return
    table = _table(title, columns, rows)
    if OUTPUT.is_terminal:
        OUTPUT.print(table)
        return
    # A file or a pipe has no width at which figures would have to be cut off.
    Console(file=OUTPUT.file, highlight=False, width=_widest(table)).print(table)


def _widest(table: Table) -> int:
    return max(OUTPUT.measure(table, options=OUTPUT.options.update(max_width=_WIDEST)).maximum, 1)


def watch_table(
    title: str,
    columns: Sequence[Column],
    rows: Callable[[], Sequence[dict[str, Any]]],
    *,
    every_s: float = 1.0,
) -> None:
    """Show a table of what `rows` returns, anew every `every_s` seconds, until the user interrupts."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(_table(title, columns, rows()), console=OUTPUT, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(every_s)
            live.update(_table(title, columns, rows()), refresh=True)


def _table(title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=not column.wraps,
        )
    for row in rows:
        table.add_row(*(_cell(row.get(column.key)) for column in columns))
    return table


def print_json(values: object) -> None:
    """Print `values` as one JSON document on standard output."""
    json.dump(values, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def trial_line(record: TrialRecord) -> str:
    """Return one line that says what became of a trial."""
    evaluation = record.evaluation
    head = f"trial {record.number:>4}  {evaluation.architecture.id}"
    if record.repeats is not None:
        head += f"  (met in trial {record.repeats})"
    if evaluation.failure is not None:
        return f"{head}  failed in {evaluation.failure.stage}: {evaluation.failure.reason}"
    objectives = evaluation.objectives
    assert objectives is not None
    accuracy, latency_ms = objectives
    latency = evaluation.latency
    flag = f"  {latency.untuned_flag}" if latency and latency.untuned_flag else ""
    flag += "".join(
        f"  UNSTABLE DEVICE: {warning}" for warning in (latency.warnings if latency else ())
    )
    flag += "  EMULATED, not a latency" if latency and latency.emulated else ""
    return (
        f"{head}  accuracy {accuracy:6.2%}  latency {format_ms(latency_ms):>9}"
        f"  reward {record.reward:.4f}{flag}"
    )


@dataclass
class SearchTally:
    """What a display knows of the trials that it was shown: the best, the records' hit rate, the devices, the pace."""

    total: int
    finished: int = 0
    best: TrialRecord | None = None
    _kernels: int = 0
    _tuned: int = 0
    _shown: int = 0
    _devices: Counter[str] = field(default_factory=Counter)

    def add(self, record: TrialRecord) -> None:
        """Take a finished trial into account."""
        self.finished += 1
        self._shown += 1
        if record.reward is not None and (
            self.best is None or record.reward > (self.best.reward or 0.0)
        ):
            self.best = record
        if record.repeats is None:
            effort, latency = record.evaluation.effort, record.evaluation.latency
            self._kernels += effort.kernels
            self._tuned += effort.kernels_tuned
            if latency is not None:
                self._devices[latency.device_name or latency.device_key] += 1

    def words(self, passed_s: float) -> list[str]:
        """Return what is to be told `passed_s` seconds after the display began."""
        words: list[str] = []
        if self.best is not None and self.best.evaluation.objectives is not None:
            accuracy, latency_ms = self.best.evaluation.objectives
            where = f"trial {self.best.number}: {accuracy:.2%}, {format_ms(latency_ms)}"
            words.append(f"best reward {self.best.reward:.4f} ({where})")
        if self._kernels:
            words.append(f"{1 - self._tuned / self._kernels:.0%} of kernels from records")
        if self._devices:
            counts = (f"{name} {count}" for name, count in sorted(self._devices.items()))
            words.append(f"measured on {', '.join(counts)}")
        # The first trials pay for the kernels of all, and tell too much.
        if self._shown >= _LEAST_FOR_PACE and self.finished < self.total:
            left_s = passed_s / self._shown * (self.total - self.finished)
            words.append(f"about {timedelta(seconds=round(left_s))} left")
        return words


class _SearchProgress(Progress):
    """Bars, and a line below them."""

    status = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bars and the line."""
        yield self.make_tasks_table(self.tasks)
        if self.status:
            yield Text(self.status, overflow="ellipsis", no_wrap=True)


@dataclass
class SearchDisplay:
    """Shows the progress of a whole search and of the step under way; an `Observer` and a context manager.

    Where nobody sees it move, in a file or a pipe, a line says how far it is whenever none was printed for `every_s`.
    Work that has no trials has a `total` of 0.
    """

    total: int = 0
    finished: int = 0
    every_s: float | None = None
    _progress: _SearchProgress = field(init=False)
    _whole: TaskID = field(init=False)
    _step: TaskID = field(init=False)
    _tally: SearchTally = field(init=False)
    _began_s: float = field(init=False, default_factory=time.monotonic)
    _said_s: float = field(init=False, default_factory=time.monotonic)
    _teller: threading.Thread | None = field(init=False, default=None)
    _ended: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._tally = SearchTally(self.total, self.finished)
        self._progress = _SearchProgress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=MESSAGES,
            transient=True,
            disable=not MESSAGES.is_terminal,
        )
        self._whole = self._progress.add_task(
            "trials", total=self.total, completed=self.finished, visible=self.total > 0
        )
        self._step = self._progress.add_task("starting", total=None)

    def __enter__(self) -> SearchDisplay:
        self._progress.start()
        if self.every_s is not None and not MESSAGES.is_terminal:
            # What takes long may not say so while it does.
            self._teller = threading.Thread(target=self._tell, args=(self.every_s,), daemon=True)
            self._teller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._teller is not None:
            self._teller.join()
        self._progress.stop()

    def _tell(self, every_s: float) -> None:
        while not self._ended.wait(every_s / 10):
            if time.monotonic() - self._said_s >= every_s:
                self._print(self._line())

    def _line(self) -> str:
        step = self._progress.tasks[self._step]
        done = "" if step.total is None else f" {step.completed:.0f} of {step.total:.0f}"
        passed_s = time.monotonic() - self._began_s
        trials = f"{self._tally.finished} of {self.total} trials " if self.total else ""
        head = f"... {step.description}{done}; {trials}after {timedelta(seconds=round(passed_s))}"
        return "; ".join([head, *self._tally.words(passed_s)])

    def _print(self, text: str) -> None:
        self._said_s = time.monotonic()
        MESSAGES.print(text, markup=False)

    def stage(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of the stage `name` are finished."""
        self._progress.update(self._step, description=name, completed=done, total=total)

    def trial(self, record: TrialRecord) -> None:
        """Show a finished trial."""
        self._print(trial_line(record))
        self._tally.add(record)
        self._progress.update(self._whole, completed=self._tally.finished)
        self._progress.status = "; ".join(self._tally.words(time.monotonic() - self._began_s))

    def note(self, text: str) -> None:
        """Show one line of news."""
        self._print(text)
