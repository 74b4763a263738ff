"""A field for a path or hub id: typed, browsed, or picked from what was used lately."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from textual import work
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Key, Paste
from textual.geometry import Region
from textual.message import Message
from textual.widgets import Button, Input, OptionList
from textual.widgets.option_list import Option

from engine.i18n import _
from engine.paths import is_folder, pasted, path_of
from tui.plain import visible


class Offers(OptionList):
    """What is offered below the field; up from the first one is back in the field."""

    def action_cursor_up(self) -> None:
        if self.highlighted:
            super().action_cursor_up()
        elif isinstance(self.parent, PathInput):
            self.parent.focus_input()


class PathInput(Vertical):
    """An input, a button that opens a file dialog, and a list of offers below."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("down", "offers", show=False)]

    class Settled(Message):
        """A value was typed and confirmed, browsed or picked."""

        def __init__(self, value: str) -> None:
            super().__init__()
            self.value = value

    class Typed(Message):
        """The value changes under the person's hands."""

        def __init__(self, value: str) -> None:
            super().__init__()
            self.value = value

    def __init__(self, kind: Literal["file", "folder"], placeholder: str, help: str, id: str | None = None) -> None:
        super().__init__(id=id)
        self.kind, self.placeholder = kind, placeholder
        self.help_text = help
        self._offers: tuple[tuple[str, str], ...] = ()
        self._shown: tuple[tuple[str, str], ...] = ()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Input(placeholder=self.placeholder, compact=True)
            yield Button(_("Browse"), id="browse", compact=True)
        yield Offers(compact=True, markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).display = False

    @property
    def value(self) -> str:
        """What stands in the field, as a path that may have been pasted."""
        return pasted(self.query_one(Input).value)

    @value.setter
    def value(self, value: str) -> None:
        with self.prevent(Input.Changed):
            field = self.query_one(Input)
            field.value = value
            field.cursor_position = len(value)
        self._show_offers()
        self.call_after_refresh(self._show_end)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_end)

    def _show_end(self) -> None:
        """Of a path too long for the field show the end, where the file's name stands, unless somebody is in the middle of it."""
        field = self.query_one(Input)
        if field.cursor_position == len(field.value):
            field.scroll_to_region(Region(field.virtual_size.width, 0, 1, 1), force=True, animate=False)

    def offer(self, offers: Sequence[tuple[str, str]]) -> None:
        """Offer (value, note) pairs; the one that stands in the field already is left out."""
        self._offers = tuple(offers)
        self._show_offers()

    def _show_offers(self) -> None:
        shown = tuple(one for one in self._offers if one[0] != self.value)
        if shown == self._shown:
            return
        self._shown = shown
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(Content(visible(f"{value}  {note}".rstrip()))) for value, note in shown)
        options.display = bool(shown)

    def focus_input(self) -> None:
        """Put the cursor into the field."""
        self.query_one(Input).focus()

    def take_over(self, event: Key | Paste) -> None:
        """What was typed or pasted while the focus was elsewhere is meant for this field, in place of what stands there."""
        field = self.query_one(Input)
        self.screen.set_focus(field)  # which marks all of it, and comes before what is posted now
        field.post_message(Paste(event.text) if isinstance(event, Paste) else Key(event.key, event.character))

    def action_offers(self) -> None:
        """Down from the field is into what is offered below it."""
        offers = self.query_one(Offers)
        if not offers.display or self.screen.focused is offers:
            raise SkipAction
        offers.focus()
        offers.highlighted = offers.highlighted or 0

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._show_offers()
        self.post_message(self.Typed(self.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Settled(self.value))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        value, _note = self._shown[event.option_index]
        self._settle(value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.browse()

    def _settle(self, value: str) -> None:
        self.value = value
        self.post_message(self.Settled(value))

    @work
    async def browse(self) -> None:
        """Open the file dialog where the field points to."""
        from tui.widgets.browse import FileBrowser, FolderBrowser

        here = path_of(self.value) if self.value else Path()
        folder = next((one for one in (here, *here.parents) if is_folder(one)), Path())
        cancel = _("Cancel")
        dialog = (
            FileBrowser(folder, _("Choose a file"), open_button=_("Open"), cancel_button=cancel)
            if self.kind == "file"
            else FolderBrowser(folder, _("Choose a folder"), select_button=_("Choose"), cancel_button=cancel)
        )
        dialog.ERROR_PERMISSION_ERROR = _("This may not be looked into")
        if isinstance(dialog, FileBrowser):
            dialog.ERROR_A_FILE_MUST_BE_CHOSEN = dialog.ERROR_A_FILE_MUST_EXIST = _("Choose a file that is there")
        chosen = await self.app.push_screen_wait(dialog)
        if chosen is not None:
            self._settle(_short(chosen))


def _short(path: Path) -> str:
    """Relative where it lies below the current folder, as a person would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
