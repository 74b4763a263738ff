"""The dialogs that look for a file or a folder: the library's, with the help that F1 gives on every screen."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual_fspicker import FileOpen, SelectDirectory

from tui.i18n import N_

HELP_TEXT = N_(
    "The arrow keys go through the list, Enter opens a folder; the first line leads to the folder above. Tab goes on to the fields "
    "and buttons, a dot shows what is hidden, Escape goes back without choosing."
)
HELP = Binding("f1", "help", N_("Help"))


class FileBrowser(FileOpen):
    """Choose a file."""

    BINDINGS: ClassVar[list[BindingType]] = [HELP]
    HELP_TEXT: ClassVar[str] = HELP_TEXT

    def action_help(self) -> None:
        from tui.screens.dialogs import HelpScreen

        self.app.push_screen(HelpScreen(self))


class FolderBrowser(SelectDirectory):
    """Choose a folder."""

    BINDINGS: ClassVar[list[BindingType]] = [HELP]
    HELP_TEXT: ClassVar[str] = HELP_TEXT
    action_help = FileBrowser.action_help
