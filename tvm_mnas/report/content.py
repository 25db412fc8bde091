"""What is on the page about a run, as plain values: `templates/page.html.j2` turns them into HTML and escapes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
    """Names with their values, below each other."""

    entries: tuple[tuple[str, Text], ...]

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
    """A table, of which only the first rows are shown where there are very many; `summary` folds it away."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]
    total: int
    summary: str = ""

    kind: Literal["table"] = field(default="table", init=False)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as PNG bytes, for a light and for a dark page, and what it shows in words."""

    light: bytes
    dark: bytes
    description: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]

    kind: Literal["pictures"] = field(default="pictures", init=False)


Part: TypeAlias = Paragraph | Pairs | Table | Pictures


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


def make_pairs(entries: Iterable[tuple[str, str | Text]]) -> Pairs:
    """Return names with their values; a plain text is shown as it is."""
    return Pairs(tuple((n, v if isinstance(v, Text) else Text(v)) for n, v in entries))


def make_table(
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    *,
    most: int = 1000,
    summary: str = "",
) -> Table:
    """Return a table of `rows`, of more than `most` the first ones; what is None is shown as a dash."""
    return Table(
        tuple(columns),
        tuple(
            tuple(Text(_show(column, row[column.key]), column.style) for column in columns)
            for row in rows[:most]
        ),
        total=len(rows),
        summary=summary,
    )


def _show(column: Column, value: object) -> str:
    return "-" if value is None else column.show(value)
