"""The rail: where one is, and what lies behind and ahead. A finished step can be clicked."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Static

from engine.i18n import _
from tui.i18n import N_

STEPS = (N_("Dataset"), N_("Model"), N_("Output"), N_("Start"), N_("Settings"), N_("Training"), N_("Result"))


class RailStep(Static):
    """One step of the rail."""

    class Chosen(Message):
        """A step was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int, current: int) -> None:
        self.state = "current" if number == current else "done" if number < current else "ahead"
        self.number = number
        name = _(STEPS[number])
        self.words = {"current": "▸", "done": "✓", "ahead": " "}[self.state] + f"{number + 1} {name}"
        super().__init__(self.words, classes=self.state, markup=False)

    def shorten(self, short: bool) -> None:
        """Leave the name out, but for where one is."""
        self.update(self.words[:2] if short and self.state != "current" else self.words)

    def on_click(self) -> None:
        self.post_message(self.Chosen(self.number))


class Rail(Horizontal):
    """Seven steps in a line."""

    def __init__(self, current: int) -> None:
        super().__init__()
        self.current = current

    def compose(self) -> ComposeResult:
        for number in range(len(STEPS)):
            yield RailStep(number, self.current)

    def on_resize(self) -> None:
        """Where the names do not fit, the steps before and after lose theirs: where one is must be seen."""
        steps = list(self.query(RailStep))
        wide = sum(cell_len(one.words) + one.gutter.width for one in steps)
        for one in steps:
            one.shorten(wide > self.content_size.width)
