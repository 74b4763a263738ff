"""The loss chart: curves with axes, drawn with braille dots or, where a terminal cannot show them, with ASCII.

Our own, although plotting libraries for terminals are well kept: while a model trains, everything painted is time taken from it. The
chart of a run (dim history, join line, target band, three curves) costs plotext 12 to 16 ms and this one a tenth
(`python -m tests.bench chart`); nor does plotext know a band, a dim part, or ASCII. `draw` is a pure function from data to lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

Points = Sequence[tuple[int, float]]

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a braille cell, by row and column (Unicode 15, chapter 21.1)."""


@dataclass(frozen=True)
class Line:
    """One curve."""

    points: Points
    style: str
    """A rich style."""
    mark: str
    """Its character where there are no braille dots."""
    joined: bool = True
    """Whether its points are joined; else each is a mark of its own."""


@dataclass(frozen=True)
class Picture:
    """What a chart shows."""

    lines: tuple[Line, ...]
    """Later ones are drawn over earlier ones."""
    band: tuple[float, float] | None = None
    """(low, high): the losses one aims for."""
    join: int | None = None
    """Step of a vertical line."""
    last_step: int | None = None
    """Right end of the axis; None: the last point."""


def draw(picture: Picture, width: int, height: int, ascii_only: bool = False) -> list[list[tuple[str, str]]]:
    """`height` lines of (text, style) runs that fill `width` columns: the plot, its left axis, and the steps below.

    Losses are drawn on a logarithmic scale where they span more than a factor of 20 and all are positive.
    """
    values = [value for line in picture.lines for _step, value in line.points if math.isfinite(value)]
    steps = [step for line in picture.lines for step, _value in line.points]
    if not values or height < 3 or width < 16:
        return [[(" " * width, "")] for _row in range(height)]
    axes = _Axes.around(values, steps, picture, width, height)
    canvas = _Canvas(axes.columns, axes.rows, ascii_only)
    if picture.band is not None:
        canvas.band(axes.y(picture.band[1]), axes.y(picture.band[0]))
    if picture.join is not None:
        canvas.upright(axes.x(picture.join))
    for line in picture.lines:
        canvas.curve([(axes.x(step), axes.y(value)) for step, value in line.points if math.isfinite(value)], line)
    return [*_with_left_axis(canvas, axes, ascii_only), *_bottom(axes, ascii_only)]


@dataclass(frozen=True)
class _Axes:
    low: float
    high: float
    first: int
    last: int
    logarithmic: bool
    margin: int
    columns: int
    rows: int

    @classmethod
    def around(cls, values: list[float], steps: list[int], picture: Picture, width: int, height: int) -> _Axes:
        low, high = min(values), max(values)
        if picture.band is not None and high > 0:
            low, high = min(low, picture.band[0]), max(high, picture.band[1])
        logarithmic = low > 0 and high / low > 20
        if not logarithmic:
            low = 0.0 if 0 <= low < high else low
            high = high if high > low else low + 1.0
        margin = 7
        last = max(max(steps), picture.last_step or 0)
        return cls(low, high, min(min(steps), last - 1), last, logarithmic, margin, width - margin, height - 2)

    def x(self, step: int) -> int:
        """Dot column of a step, two to a character."""
        return round((step - self.first) / max(1, self.last - self.first) * (2 * self.columns - 1))

    def y(self, value: float) -> int:
        """Dot row of a loss, four to a character, 0 at the top."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round((1 - min(1.0, max(0.0, share))) * (4 * self.rows - 1))

    def ticks(self) -> dict[int, str]:
        """Label of each character row that has one: round losses (1, 2 or 5 times a power of ten), at least two rows apart."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [one * 10.0**decade for one in (1, 2, 5) for decade in decades]
        else:
            step = _round_up((self.high - self.low) / max(1, min(8, self.rows // 2)))
            first = math.ceil(self.low / step - 1e-9)
            values = [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        labels: dict[int, str] = {}
        for value in values:
            row = min(self.rows - 1, self.y(value) // 4)
            if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9) and not labels.keys() & {row - 1, row, row + 1}:
                labels[row] = _short(value)
        return labels


def _round_up(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below a positive `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(one * power for one in (1, 2, 5, 10) if one * power >= value * (1 - 1e-9))


class _Canvas:
    """Dots and marks by cell, each cell with the style of what was drawn last."""

    def __init__(self, columns: int, rows: int, ascii_only: bool) -> None:
        self.columns, self.rows, self.ascii_only = columns, rows, ascii_only
        self.bits = [[0] * columns for _row in range(rows)]
        self.marks: list[list[str]] = [[""] * columns for _row in range(rows)]
        self.styles: list[list[str]] = [[""] * columns for _row in range(rows)]
        self.behind: list[list[tuple[str, str]]] = [[(" ", "")] * columns for _row in range(rows)]

    def band(self, top: int, bottom: int) -> None:
        mark = ":" if self.ascii_only else "░"
        for row in range(max(0, top // 4), min(self.rows, bottom // 4 + 1)):
            self.behind[row] = [(mark, BAND)] * self.columns

    def upright(self, x: int) -> None:
        column = min(self.columns - 1, x // 2)
        for row in range(self.rows):
            self.behind[row][column] = ("|" if self.ascii_only else "│", JOIN)

    def curve(self, dots: list[tuple[int, int]], line: Line) -> None:
        if line.joined:
            for (x, y), (to_x, to_y) in pairwise(dots):
                self._stroke(x, y, to_x, to_y, line)
            if len(dots) == 1:
                self._dot(*dots[0], line)
            return
        for x, y in dots:
            column, row = min(self.columns - 1, x // 2), min(self.rows - 1, y // 4)
            self.marks[row][column], self.styles[row][column] = line.mark, line.style

    def _stroke(self, x: int, y: int, to_x: int, to_y: int, line: Line) -> None:
        count = max(abs(to_x - x), abs(to_y - y), 1)
        for part in range(count + 1):
            self._dot(x + round((to_x - x) * part / count), y + round((to_y - y) * part / count), line)

    def _dot(self, x: int, y: int, line: Line) -> None:
        column, row = x // 2, y // 4
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.styles[row][column] = line.style
            if self.ascii_only:
                self.marks[row][column] = line.mark
            else:
                self.bits[row][column] |= DOTS[y % 4][x % 2]

    def row(self, number: int) -> list[tuple[str, str]]:
        """One row as runs of equal style."""
        runs: list[tuple[str, str]] = []
        for column in range(self.columns):
            text, style = self.behind[number][column]
            if self.marks[number][column]:
                text, style = self.marks[number][column], self.styles[number][column]
            elif self.bits[number][column]:
                text, style = chr(0x2800 + self.bits[number][column]), self.styles[number][column]
            if runs and runs[-1][1] == style:
                runs[-1] = (runs[-1][0] + text, style)
            else:
                runs.append((text, style))
        return runs


BAND = "band"
JOIN = "join"
AXIS = "axis"
"""Names that the widget turns into colours of the theme."""


def _with_left_axis(canvas: _Canvas, axes: _Axes, ascii_only: bool) -> list[list[tuple[str, str]]]:
    tick, bar = ("+", "|") if ascii_only else ("┤", "│")
    labels = axes.ticks()
    return [
        [(f"{labels.get(row, ''):>{axes.margin - 2}} {tick if row in labels else bar}", AXIS), *canvas.row(row)]
        for row in range(axes.rows)
    ]


def _bottom(axes: _Axes, ascii_only: bool) -> list[list[tuple[str, str]]]:
    corner, dash = ("+", "-") if ascii_only else ("└", "─")
    rule = " " * (axes.margin - 1) + corner + dash * axes.columns
    room = axes.columns
    count = max(2, min(6, room // 14, axes.last - axes.first + 1))
    text = [" "] * (axes.margin + room)
    for part in range(count):
        step = axes.first + round((axes.last - axes.first) * part / (count - 1))
        label = str(step)
        place = (
            axes.margin + round((room - 1) * part / (count - 1)) - (len(label) - 1 if part == count - 1 else len(label) // 2)
        )
        place = min(max(place, axes.margin if part == 0 else 0), len(text) - len(label))
        text[place : place + len(label)] = label
    return [[(rule[: axes.margin + room], AXIS)], [("".join(text), AXIS)]]


def _short(value: float) -> str:
    """At most five characters, no more digits than it has."""
    text = f"{value:.4g}"
    return text if len(text) <= 5 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")


class LossChart(Widget):
    """A Picture, drawn to fit; drawn again only when it or the size changes."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"loss-chart--axis", "loss-chart--band", "loss-chart--join", "loss-chart--history",
                         "loss-chart--loss", "loss-chart--smooth", "loss-chart--eval"}  # fmt: skip
    DEFAULT_CSS = """
    LossChart { height: 1fr; min-height: 5; }
    LossChart > .loss-chart--axis { color: $text-muted; }
    LossChart > .loss-chart--band { color: $success 40%; }
    LossChart > .loss-chart--join { color: $warning; }
    LossChart > .loss-chart--history { color: $text-disabled; }
    LossChart > .loss-chart--loss { color: $primary; }
    LossChart > .loss-chart--smooth { color: $accent; text-style: bold; }
    LossChart > .loss-chart--eval { color: $warning; text-style: bold; }
    """

    def __init__(self, picture: Picture | None = None, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._picture = picture or Picture(())
        self._ascii = ascii_only
        self._drawn: tuple[Picture, int, int] | None = None
        self._rows: list[list[tuple[str, str]]] = []

    def show(self, picture: Picture) -> None:
        """Show another picture."""
        if picture != self._picture:
            self._picture = picture
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line, from the rows drawn for this size."""
        width, height = self.size
        if self._drawn != (self._picture, width, height):
            self._rows = draw(self._picture, width, height, self._ascii)
            self._drawn = (self._picture, width, height)
        if y >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        runs = self._rows[y]
        return Strip([Segment(text, self._style(style)) for text, style in runs], sum(len(text) for text, _style in runs))

    def _style(self, name: str) -> Style:
        return (
            self.rich_style + self.get_component_rich_style(f"loss-chart--{name}", partial=True) if name else self.rich_style
        )
