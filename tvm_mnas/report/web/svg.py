"""Pictures as SVG text: scales, axes and marks, in the page's own colours.

Colours are classes, which `page.css` gives for a light, a dark and a printed page. All text is escaped here. A picture
is drawn 480 units wide, so that it is readable on a phone, where a unit is three quarters of a pixel.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 480.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 16.0, 46.0
_LOG_RATIO = 20.0
"""Values that span more than this get a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in `least`..`most` to `start`..`end` of the picture."""

    least: float
    most: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, end: float, *, margin: float = 0.05
    ) -> Scale:
        """Return a linear scale that holds all `values`, with a margin, 0..1 where there are none."""
        if not values:
            return cls(0.0, 1.0, start, end)
        least, most = min(values), max(values)
        room = margin * (most - least) or 0.05 * abs(most) or 0.5
        return cls(least - room, most + room, start, end)

    @classmethod
    def over_times(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """Return a scale that holds all `values`, all above 0: logarithmic where a linear one would squeeze them."""
        if values and max(values) > _LOG_RATIO * min(values):
            return cls(min(values) / 1.15, max(values) * 1.15, start, end, logarithmic=True)
        linear = cls.over(values, start, end)
        return linear if linear.least >= 0 else cls(0.0, linear.most, start, end)

    def __call__(self, value: float) -> float:
        """Return where `value` is."""
        low, high = self._bent(self.least), self._bent(self.most)
        share = (self._bent(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the scale, at most about so many."""
        if self.logarithmic:
            first = math.floor(math.log10(self.least))
            last = math.ceil(math.log10(self.most))
            steps = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            return [step for step in steps if self.least <= step <= self.most]
        rough = (self.most - self.least) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
        first = math.ceil(self.least / step)
        return [step * index for index in range(first, math.floor(self.most / step) + 1)]

    def _bent(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def whole_ticks(scale: Scale, most: int = 6) -> list[float]:
    """Return the ticks of `scale` that are whole numbers."""
    return [tick for tick in scale.ticks(most) if abs(tick - round(tick)) < 1e-9]


@dataclass
class Drawing:
    """Marks of a picture with two axes; `text()` is the whole as SVG, `label` what it shows in words."""

    label: str
    x: Scale
    y: Scale
    width: float = WIDTH
    height: float = HEIGHT
    css_class: str = ""
    _parts: list[str] = field(default_factory=list)

    def axes(
        self,
        x_name: str,
        y_name: str,
        *,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> None:
        """Draw a grid, its values and what the axes are of."""
        bottom, left = self.y.start, self.x.start
        for tick in self.y.ticks() if y_ticks is None else y_ticks:
            at = self.y(tick)
            self.line(left, at, self.x.end, at, "grid")
            self.text(left - 6, at + 4.5, _plain(tick), "tick end")
        for tick in self.x.ticks() if x_ticks is None else x_ticks:
            at = self.x(tick)
            self.line(at, bottom, at, self.y.end, "grid")
            self.text(at, bottom + 17, _plain(tick), "tick middle")
        self.text((left + self.x.end) / 2, bottom + 38, x_name, "name middle")
        middle = (bottom + self.y.end) / 2
        self._parts.append(
            f'<text class="name middle" transform="translate(14 {_n(middle)}) rotate(-90)">{_escape(y_name)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, css_class: str) -> None:
        """Draw a line between two places of the picture."""
        self._parts.append(
            f'<line class="{css_class}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'
        )

    def curve(self, points: Iterable[tuple[float, float]], css_class: str) -> None:
        """Draw a line through `points`, which are values of the axes."""
        path = " ".join(f"{_n(self.x(x))},{_n(self.y(y))}" for x, y in points)
        if path:
            self._parts.append(f'<polyline class="{css_class}" points="{path}"/>')

    def dot(self, x: float, y: float, css_class: str, *, radius: float, index: int | None) -> None:
        """Draw a dot at values of the axes; `index` says which row of the page's data it stands for."""
        which = "" if index is None else f' data-i="{index}"'
        self._parts.append(
            f'<circle class="{css_class}" cx="{_n(self.x(x))}" cy="{_n(self.y(y))}" r="{_n(radius)}"{which}/>'
        )

    def star(self, x: float, y: float, css_class: str, *, radius: float, index: int | None) -> None:
        """Draw a star with five points at values of the axes."""
        corners = []
        for corner in range(10):
            reach = radius if corner % 2 == 0 else 0.45 * radius
            angle = math.pi * (corner / 5 - 0.5)
            corners.append(
                f"{_n(self.x(x) + reach * math.cos(angle))},{_n(self.y(y) + reach * math.sin(angle))}"
            )
        which = "" if index is None else f' data-i="{index}"'
        self._parts.append(f'<polygon class="{css_class}" points="{" ".join(corners)}"{which}/>')

    def bar(
        self, x: float, y: float, width: float, height: float, css_class: str, title: str = ""
    ) -> None:
        """Draw a rectangle at a place of the picture; `title` is shown where a pointer rests on it."""
        inner = f"<title>{_escape(title)}</title>" if title else ""
        self._parts.append(
            f'<rect class="{css_class}" x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0.0))}" '
            f'height="{_n(max(height, 0.0))}">{inner}</rect>'
        )

    def text(self, x: float, y: float, words: str, css_class: str) -> None:
        """Write `words` at a place of the picture."""
        self._parts.append(
            f'<text class="{css_class}" x="{_n(x)}" y="{_n(y)}">{_escape(words)}</text>'
        )

    def say(self, words: str) -> None:
        """Write `words` where marks would be: what the picture lacks."""
        self.text(
            (self.x.start + self.x.end) / 2, (self.y.start + self.y.end) / 2, words, "say middle"
        )

    def svg(self) -> str:
        """Return the picture as SVG."""
        css = f' class="{self.css_class}"' if self.css_class else ""
        return (
            f'<svg{css} viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img" '
            f'aria-label="{_escape(self.label)}">{"".join(self._parts)}</svg>'
        )


def plane(
    label: str,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    times: bool = False,
    width: float = WIDTH,
    height: float = HEIGHT,
    css_class: str = "",
) -> Drawing:
    """Return an empty picture whose axes hold all `xs` and `ys`; `times`, above 0, may get a logarithmic axis."""
    over = Scale.over_times if times else Scale.over
    return Drawing(
        label,
        over(xs, LEFT, width - RIGHT),
        Scale.over(ys, height - BOTTOM, TOP),
        width,
        height,
        css_class,
    )


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _plain(value: float) -> str:
    return f"{value:.6g}" if value else "0"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
