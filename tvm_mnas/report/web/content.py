"""What is on a page, as plain values: `templates/page.html.j2` turns them into HTML and escapes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tvm_mnas.report.web.choices import Preference
from tvm_mnas.report.web.winner import KernelBar, Stage

Style: TypeAlias = Literal["plain", "code", "flag"]


@dataclass(frozen=True, slots=True)
class Text:
    """One value in words. Code is in a fixed-width font, with places after colons where a long line may break."""

    text: str
    style: Style = "plain"

    kind: Literal["text"] = field(default="text", init=False)

    @property
    def pieces(self) -> list[str]:
        """The text cut before each place where a line may break."""
        first, *rest = self.text.split(":")
        return [first, *(f":{part}" for part in rest)]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or two; `css_class` is `note`, `warning` or empty."""

    text: str
    css_class: str = ""

    kind: Literal["paragraph"] = field(default="paragraph", init=False)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with their values, below each other; `summary` folds them away."""

    entries: tuple[tuple[str, Text], ...]
    summary: str = ""

    kind: Literal["pairs"] = field(default="pairs", init=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, the key of its value in a row, and how a value is shown."""

    heading: str
    key: str
    show: Callable[[Any], str] = str
    number: bool = True
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]

    kind: Literal["table"] = field(default="table", init=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture as SVG, which `svg.py` made and escaped, its caption, and what its colours mean.

    `legend` has pairs of a mark's class and a name. With `card` there is a place beside it that tells of the dot that
    is pointed at.
    """

    svg: str
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    card: bool = False

    kind: Literal["figure"] = field(default="figure", init=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """Pictures side by side."""

    figures: tuple[Figure, ...]

    kind: Literal["figures"] = field(default="figures", init=False)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A network block by block, and its notation to copy."""

    stages: tuple[Stage, ...]
    notation: str

    kind: Literal["blocks"] = field(default="blocks", init=False)


@dataclass(frozen=True, slots=True)
class KernelBars:
    """Kernels with their times, the costliest first."""

    kernels: tuple[KernelBar, ...]

    kind: Literal["kernels"] = field(default="kernels", init=False)


@dataclass(frozen=True, slots=True)
class Preferences:
    """How often each choice was proposed."""

    groups: tuple[tuple[str, tuple[Preference, ...]], ...]

    kind: Literal["preferences"] = field(default="preferences", init=False)


@dataclass(frozen=True, slots=True)
class Explorer:
    """The candidates, to filter and sort: `columns` of all, `first` rows as they stand before a script runs.

    `data` is JSON with every row, which `explorer.py` made and escaped for a page.
    """

    columns: tuple[Column, ...]
    first: tuple[tuple[Text, ...], ...]
    total: int
    data: str

    kind: Literal["explorer"] = field(default="explorer", init=False)


Part: TypeAlias = (
    Paragraph | Pairs | Table | Figure | Figures | Blocks | KernelBars | Preferences | Explorer
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with its heading."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class PageContent:
    """The whole page; `tiles` are values with their names."""

    title: str
    subtitle: str
    warnings: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: str


def make_pairs(entries: Iterable[tuple[str, str | Text]], *, summary: str = "") -> Pairs:
    """Return names with their values; a plain text is shown as it is."""
    return Pairs(tuple((n, v if isinstance(v, Text) else Text(v)) for n, v in entries), summary)


def make_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of `rows`; what is None is shown as a dash."""
    return Table(tuple(columns), show_rows(columns, rows))


def show_rows(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Text, ...], ...]:
    """Return the texts of `rows`, one for each column; what is None is shown as a dash."""
    return tuple(
        tuple(Text(_show(column, row[column.key]), column.style) for column in columns)
        for row in rows
    )


def _show(column: Column, value: object) -> str:
    return "-" if value is None else column.show(value)
