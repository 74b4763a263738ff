"""The menu of all that can be done: Textual's palette, which may be answered once."""

from __future__ import annotations

from textual import on
from textual.command import CommandPalette
from textual.message import Message
from textual.widgets import Input, OptionList

from tui.widgets.dismissed import DismissedOnce


class Menu(DismissedOnce, CommandPalette):
    """As Textual has it; a second answer in the same moment is none."""

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _only_once(self, event: Message) -> None:
        if not self.is_active:
            event.stop()
            event.prevent_default()
