"""What lies over a step: help, the question before quitting, the log, and the receipt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.cells import chop_cells
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Log, Static

from engine.events import ResumeChecked
from engine.i18n import _
from tui.app import wizard_app
from tui.plain import visible
from tui.screens.base import WizardScreen
from tui.training_text import whole_receipt_text
from tui.widgets.dismissed import DismissedOnce

if TYPE_CHECKING:
    from tui.widgets.browse import FileBrowser, FolderBrowser

TAIL = 200_000
"""Bytes of the log's end that are shown."""


class HelpScreen(DismissedOnce, ModalScreen[None]):
    """Help on what has the focus, on the step, and the keys that work now."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q,enter", "app.pop_screen", show=False)]
    AUTO_FOCUS = "VerticalScroll"

    def __init__(self, about: WizardScreen | FileBrowser | FolderBrowser) -> None:
        super().__init__()
        focused = about.focused
        helped = [getattr(node, "help_text", "") for node in (focused.ancestors_with_self if focused is not None else ())]
        self._field = next((text for text in helped if text), "")
        self._step = _(about.HELP_TEXT)
        self._keys = [
            (self_key, _(one.binding.description))
            for self_key, one in about.active_bindings.items()
            if one.binding.description and one.enabled and one.binding.show
        ]

    def compose(self) -> ComposeResult:
        text = Text()
        for part in (self._field, self._step):
            if part and _(part) not in text.plain:
                text.append(_(part) + "\n\n")
        if wizard_app(self).own_keys:
            text.append(_("Where a text names a key, it is the one that lora-tui comes with; yours are these.") + "\n\n")
        text.append(_("Keys") + "\n", style="bold")
        for key, words in self._keys:
            text.append(f"{self.app.get_key_display(Binding(key, '', ''))!s:>12}  ", style="bold")
            text.append(words + "\n")
        text.append(f"{'pgup pgdn':>12}  ", style="bold")
        text.append(_("Scroll") + "\n")
        with Vertical(id="dialog"):
            with VerticalScroll():
                yield Static(text, markup=False)
            with Horizontal(classes="answers"):
                yield Button(_("Close"), id="close-help", variant="primary", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss()


class QuitScreen(DismissedOnce, ModalScreen[str | None]):
    """Something is at work, a run or an export: what now?"""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss_none", show=False),
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
        Binding("ctrl+c", "app.leave", show=False),  # a dialog keeps the app's own keys from it, but for ctrl+q
    ]

    def __init__(self, training: bool) -> None:
        super().__init__()
        self._training = training

    def compose(self) -> ComposeResult:
        words, keep, stop = (
            (_("The run is at work. Quitting stops it after this step and saves a checkpoint first."),
             _("Keep training"), _("Stop, save and quit"))
            if self._training
            else (_("The export is at work. The program ends once the step under way has; the export may have to be begun again."),
                  _("Keep exporting"), _("Quit"))
        )  # fmt: skip
        with Vertical(id="dialog", classes="small"):
            yield Static(words, markup=False)
            with Horizontal(classes="answers"):
                yield Button(keep, id="keep", variant="primary", compact=True)
                yield Button(stop, id="stop", compact=True)

    def on_mount(self) -> None:
        self.query_one("#keep").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss("stop" if event.button.id == "stop" else None)

    def action_dismiss_none(self) -> None:
        self.dismiss(None)


class LogScreen(DismissedOnce, ModalScreen[None]):
    """The end of run.log, as the libraries wrote it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,l,q,enter", "app.pop_screen", show=False)]
    AUTO_FOCUS = "Log"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._text = ""

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(visible(str(self._path)), classes="path", markup=False)
            yield Log(id="log")  # renders the lines that are seen, however many there are
            with Horizontal(classes="answers"):
                yield Button(_("Close"), variant="primary", compact=True)

    def on_mount(self) -> None:
        self._text = _tail(self._path)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        """The text, broken into lines of the width that is there."""
        log = self.query_one(Log)
        width = max(1, log.scrollable_content_region.width)
        log.clear()
        log.write_lines(piece for line in self._text.split("\n") for piece in chop_cells(line, width) or [""])

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss()


class ReceiptScreen(DismissedOnce, ModalScreen[None]):
    """The whole receipt of a continued run."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,r,q,enter", "app.pop_screen", show=False)]
    AUTO_FOCUS = "VerticalScroll"

    def __init__(self, receipt: ResumeChecked) -> None:
        super().__init__()
        self._receipt = receipt

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            with VerticalScroll():
                yield Static(whole_receipt_text(self._receipt), markup=False)
            with Horizontal(classes="answers"):
                yield Button(_("Close"), variant="primary", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss()


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return visible(f"{path}: {error.strerror}")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]  # a bar of progress is drawn over and over
    return visible("\n".join(lines), keep_lines=True) or _("The log is empty.")
