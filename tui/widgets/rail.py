"""The rail: where one is, and what lies behind and ahead. A finished step can be clicked."""

from __future__ import annotations

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
        state = "current" if number == current else "done" if number < current else "ahead"
        mark = {"current": "▸", "done": "✓", "ahead": " "}[state]
        super().__init__("", classes=state, markup=False)
        self.number = number
        self._words, self._mark = _(STEPS[number]), mark

    def on_mount(self) -> None:
        from tui.app import wizard_app

        app = wizard_app(self)
        self.update(f"{app.mark(self._mark)}{self.number + 1} {self._words}")

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
