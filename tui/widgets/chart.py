"""The loss chart: curves with axes, drawn with braille dots or, where a terminal cannot show them, with ASCII.

Our own, although plotting libraries for terminals are well kept: none knows a target band, a dim part before a join and ASCII at
once, and while a model trains everything painted is time taken from it (`python -m tests.bench chart` says how much). `draw` is a
pure function from data to lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

Points = Sequence[tuple[int, float]]

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a braille cell, by row and column (Unicode 15, chapter 21.1)."""

RUNS = [
    [[sum(DOTS[dot][side] for dot in range(top, bottom + 1)) for bottom in range(4)] for top in range(4)] for side in (0, 1)
]
"""Bits of the dots from one row of a cell to another: [column][top][bottom]."""


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
    values = [value for line in picture.lines for _step, value in line.points if -FAR < value < FAR]
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
        canvas.curve(axes.dots(line.points), line)
    return [*_with_left_axis(canvas, axes, ascii_only), *_bottom(axes, ascii_only)]


FAR = 1e30
"""A loss beyond could not be written beside the axis. NaN is neither below nor above it, and is not drawn either."""


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
        logarithmic = high > 1e-6 and 0 < low < high / 20
        if logarithmic:
            low = max(low, 1e-30)
        else:
            low = 0.0 if 0 <= low < high else low
            if high - low < 1e-6 * max(1.0, abs(high)):
                high = low + max(1.0, abs(low))
        margin = 7
        last = max(max(steps), picture.last_step or 0)
        return cls(low, high, min(min(steps), last - 1), last, logarithmic, margin, width - margin, height - 2)

    def x(self, step: int) -> int:
        """Dot column of a step, two to a character."""
        return round((step - self.first) * (2 * self.columns - 1) / max(1, self.last - self.first))

    def y(self, value: float) -> int:
        """Dot row of a loss, four to a character, 0 at the top."""
        ((_x, y),) = self.dots([(self.first, value)])
        return y

    def dots(self, points: Points) -> list[tuple[int, int]]:
        """(dot column, dot row) of each point that can be drawn."""
        # Thousands of points a second go through here: no call a point.
        first, across = self.first, (2 * self.columns - 1) / max(1, self.last - self.first)
        low, high, log, bottom = self.low, self.high, math.log, 4 * self.rows - 1
        if self.logarithmic:
            base, down = log(low), bottom / log(high / low)
            return [
                (round((step - first) * across), round(bottom - (log(min(max(value, low), high)) - base) * down))
                for step, value in points
                if -FAR < value < FAR
            ]
        down = bottom / (high - low)
        return [
            (round((step - first) * across), round(bottom - (min(max(value, low), high) - low) * down))
            for step, value in points
            if -FAR < value < FAR
        ]

    def ticks(self) -> dict[int, str]:
        """Label of each character row that has one: round losses (1, 2 or 5 times a power of ten), at least two rows apart."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [one * 10.0**decade for one in (1, 2, 5) for decade in decades]
        else:
            step = _round_up((self.high - self.low) / max(1, min(8, self.rows // 2)))
            first = math.ceil(self.low / step - 1e-9)
            values = [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        values = [value for value in values if -FAR < value < FAR]  # as of points: the next round one may lie beyond
        labels = self._labels(values)
        if self.logarithmic and max(labels.values(), default=0.0) < self.high / 2:
            # A run begins at the top, which would have no label: it comes before those that are near it.
            top = sorted((value for value in values if self.y(value) < 4), reverse=True)
            labels = self._labels([*top, _round_down(self.high), *values])
        return {row: _short(value) for row, value in labels.items()}

    def _labels(self, values: Sequence[float]) -> dict[int, float]:
        """The values that are labelled, by row: an earlier one keeps later ones from the rows beside it."""
        labels: dict[int, float] = {}
        for value in values:
            row = min(self.rows - 1, self.y(value) // 4)
            if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9) and not labels.keys() & {row - 1, row, row + 1}:
                labels[row] = value
        return labels


def _round_down(value: float) -> float:
    """A positive `value` with its first two digits."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / power) * power


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
        for row in range(self.rows if column >= 0 else 0):
            self.behind[row][column] = ("|" if self.ascii_only else "│", JOIN)

    def curve(self, dots: list[tuple[int, int]], line: Line) -> None:
        if not line.joined:
            for x, y in dots:
                column, row = min(self.columns - 1, x // 2), min(self.rows - 1, y // 4)
                self.marks[row][column], self.styles[row][column] = line.mark, line.style
            return
        # Of the many points that share a dot column only the first, the last and the extent can be seen.
        before: tuple[int, int] | None = None
        for x, group in groupby(dots, key=itemgetter(0)):
            heights = [y for _x, y in group]
            self._upright_stroke(x, min(heights), max(heights), line)
            if before is not None:
                self._stroke(*before, x, heights[0], line)
            before = x, heights[-1]

    def _stroke(self, x: int, y: int, to_x: int, to_y: int, line: Line) -> None:
        """From one dot to another that is further to the right."""
        for part in range(to_x - x + 1):
            from_y = y + round((to_y - y) * (part - 0.5) / (to_x - x)) if part else y
            until_y = y + round((to_y - y) * (part + 0.5) / (to_x - x)) if part < to_x - x else to_y
            self._upright_stroke(x + part, min(from_y, until_y), max(from_y, until_y), line)

    def _upright_stroke(self, x: int, top: int, bottom: int, line: Line) -> None:
        column, side = x // 2, x % 2
        if not 0 <= column < self.columns:
            return
        for row in range(max(0, top // 4), min(self.rows - 1, bottom // 4) + 1):
            self.styles[row][column] = line.style
            if self.ascii_only:
                self.marks[row][column] = line.mark
            else:
                self.bits[row][column] |= RUNS[side][max(0, top - 4 * row)][min(3, bottom - 4 * row)]

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
    if len(text) <= 5:
        return text
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


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
