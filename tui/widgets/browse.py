"""The dialogs that look for a file or a folder: the library's, with the help that F1 gives on every screen."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Button
from textual_fspicker import FileOpen, SelectDirectory
from textual_fspicker.parts import DirectoryNavigation

from engine.i18n import _
from tui.i18n import N_
from tui.keys import bound
from tui.widgets.dismissed import DismissedOnce

HELP_TEXT = N_(
    "The arrow keys go through the list, Enter opens a folder; the first line leads to the folder above. Tab goes on to the fields "
    "and buttons, a dot shows what is hidden, Escape goes back without choosing."
)
HELP = bound("help", "help", N_("Help"))


class FileBrowser(DismissedOnce, FileOpen):
    """Choose a file, or the folder that one stands in: a dataset may be one."""

    DEFAULT_CSS: ClassVar[str] = "FileBrowser Button { min-width: 8; }"  # three of them beside the name
    BINDINGS: ClassVar[list[BindingType]] = [HELP]
    HELP_TEXT: ClassVar[str] = HELP_TEXT

    def _input_bar(self) -> ComposeResult:
        yield from super()._input_bar()
        yield Button(_("This folder"), id="folder")

    @on(Button.Pressed, "#folder")
    def _take_folder(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(self.query_one(DirectoryNavigation).location)

    def action_help(self) -> None:
        from tui.screens.dialogs import HelpScreen

        self.app.push_screen(HelpScreen(self))


class FolderBrowser(DismissedOnce, SelectDirectory):
    """Choose a folder."""

    BINDINGS: ClassVar[list[BindingType]] = [HELP]
    HELP_TEXT: ClassVar[str] = HELP_TEXT
    action_help = FileBrowser.action_help
