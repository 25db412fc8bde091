"""HTML that is escaped by construction: only what these functions made is taken as markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

_VOID = frozenset({"img", "meta", "source", "wbr"})


class Markup(str):
    """Text that is HTML already. Make one with `element` or `join`, never from a value."""

    __slots__ = ()


Format: TypeAlias = Callable[[Any], str]
"""Turns a value into text, or into `Markup`."""


def join(parts: Iterable[str]) -> Markup:
    """Return the parts in a row, those that are not markup escaped."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p, quote=False) for p in parts))


def element(tag: str, *children: str, attributes: Mapping[str, str] | None = None) -> Markup:
    """Return `<tag ...>children</tag>`; children that are not markup, and all attributes, are escaped."""
    pairs = "".join(f' {name}="{escape(text)}"' for name, text in (attributes or {}).items())
    if tag in _VOID:
        return Markup(f"<{tag}{pairs}>")
    return Markup(f"<{tag}{pairs}>{join(children)}</{tag}>")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, the key of its value in a row, and how a value is shown."""

    heading: str
    key: str
    show: Format = str
    number: bool = True


def table(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, most: int = 1000
) -> Markup:
    """Return a table that scrolls sideways where it is too wide; of more than `most` rows the first ones."""
    head = element("tr", *(_cell("th", column, column.heading) for column in columns))
    body = [
        element(
            "tr", *(_cell("td", column, _show(column.show, row[column.key])) for column in columns)
        )
        for row in rows[:most]
    ]
    content = element("table", element("thead", head), element("tbody", *body))
    # A region that scrolls has to be reachable by keyboard.
    scroll = {"class": "scroll", "tabindex": "0", "role": "region"}
    parts = [element("div", content, attributes=scroll)]
    if len(rows) > most:
        parts.append(
            element("p", f"The first {most:,} of {len(rows):,}.", attributes={"class": "note"})
        )
    return join(parts)


def pairs(values: Iterable[tuple[str, str]]) -> Markup:
    """Return names with their values, below each other."""
    items = [element("div", element("dt", name), element("dd", value)) for name, value in values]
    return element("dl", *items)


def section(title: str, *children: str) -> Markup:
    """Return a section with its heading."""
    return element("section", element("h2", title), *children)


def code(text: str) -> Markup:
    """Return `text` in a fixed-width font, with places after colons where a long line may break."""
    first, *rest = text.split(":")
    broken = [part for tail in rest for part in (":", element("wbr"), tail)]
    return element("code", first, *broken)


def _cell(tag: str, column: Column, content: str) -> Markup:
    attributes = {"class": "number"} if column.number else {}
    if tag == "th":
        attributes["scope"] = "col"
    return element(tag, content, attributes=attributes)


def _show(show: Format, value: object) -> str:
    return "-" if value is None else show(value)
