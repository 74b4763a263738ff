"""What every step of the wizard has: the rail, a body, the way on with the reason where it is closed, help, and the keys.

A screen is made anew each time it is entered and fills itself from the Wizard (`fill`); it writes its answers back when it is left
(`take`). So going back loses nothing, and no screen has to know whether it has been here before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from textual import work
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Key, Paste
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Button, Input, Static

from engine.errors import LoraTuiError
from engine.i18n import _
from tui.app import LoraTui, wizard_app
from tui.i18n import N_
from tui.keys import bound
from tui.messages import Found
from tui.widgets.buttons import Buttons
from tui.widgets.closed import Closed
from tui.widgets.dismissed import DismissedOnce
from tui.widgets.foot import Foot
from tui.widgets.path_input import PathInput
from tui.widgets.rail import Rail, RailStep
from tui.widgets.setting import Setting
from tui.wizard import Wizard

SHORT = 1.5
"""Seconds for which it is told that a key has done its work: it lies over what was asked about."""
PAUSE = 0.4
"""Seconds without a key after which what was typed is looked at."""


class WizardScreen(DismissedOnce, Screen[Any]):
    """A screen whose keys speak the installed language, and that can be asked about."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "turn('page_up')", show=False, priority=True),
        Binding("pagedown", "turn('page_down')", show=False, priority=True),
        Binding("up", "turn('up')", show=False),
        Binding("down", "turn('down')", show=False),
        Binding("ctrl+home", "turn('home')", show=False, priority=True),
        Binding("ctrl+end", "turn('end')", show=False, priority=True),
    ]
    HELP_TEXT: ClassVar[str] = ""
    SCROLLED: ClassVar[str] = "#body"
    """What the keys for a page scroll, wherever the focus is."""
    at_work = False
    """Whether something is under way here that quitting would cut short."""

    @property
    def awaited(self) -> bool:
        """Whether the program, once it is left, waits for the threads of this screen: they leave something behind if cut short."""
        return self.at_work

    def on_mount(self) -> None:
        self.screen_layout_refresh_signal.subscribe(self, lambda _screen: self._place_cursor())

    def _place_cursor(self) -> None:
        """Put the terminal's cursor, where an input method shows what it composes, into the focused field. Textual does so when the
        field is focused, which may be before it has its place, and not when its place becomes another."""
        if isinstance(self.focused, Input):
            self.app.cursor_position = self.focused.cursor_screen_offset

    @property
    def owner(self) -> LoraTui:
        """The app, with its type."""
        return wizard_app(self)

    @property
    def wizard(self) -> Wizard:
        """All answers so far."""
        return self.owner.wizard

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """As Textual finds them, with their descriptions translated now and not when the class was made."""
        return {key: one._replace(binding=_translated(one.binding)) for key, one in super().active_bindings.items()}

    def commands(self) -> Iterable[tuple[str, Callable[[], Any]]]:
        """What the menu offers here besides the keys: the buttons that have none."""
        return ()

    def action_help(self) -> None:
        from tui.screens.dialogs import HelpScreen

        self.owner.push_screen(HelpScreen(self))

    def action_turn(self, way: str) -> None:
        """Scroll what is longer than the screen. Where nothing is, and while a list lies over it, the key is the focused widget's."""
        longer = [one for one in self.query(self.SCROLLED) if one.allow_vertical_scroll]
        if not longer or (self.focused is not None and self.focused.styles.overlay == "screen"):
            raise SkipAction
        for one in longer:
            getattr(one, f"scroll_{way}")(animate=False)

    def after_typing(self, then: Callable[[], Any]) -> None:
        """Do `then` once what was typed before a key of the screen's has reached its field: such a key comes here at once, while that
        may still be under way (all of it together, over a slow line)."""
        if self.focused is None:
            then()
        else:
            self.focused.call_later(self._if_here, then)

    def _if_here(self, then: Callable[[], Any]) -> None:
        if self.is_current:  # the key was pressed twice
            then()

    @work(thread=True, group="ask")
    def ask(self, what: str, asked: Any, find: Callable[[], Any]) -> None:
        """Find something out in a thread; the answer comes as Found, an error as its value."""
        self.post_message(Found(what, asked, self.tried(what, find)))

    def tried(self, what: str, find: Callable[[], Any]) -> Any:
        """What `find` gives, or its error: also one that nobody foresaw, which must not end the wizard, and with it a run that may
        be at work. For threads."""
        try:
            return find()
        except LoraTuiError as error:
            return error
        except Exception as error:
            logging.getLogger(__name__).exception("a question of %s failed: %s", type(self).__name__, what)
            return LoraTuiError(f"{type(error).__name__}: {error}")


def _translated(binding: Binding) -> Binding:
    if binding.action == "command_palette":
        return replace(binding, description=_("Menu"))
    if binding.action == "dismiss":  # of Textual's open list, which is not in the catalogue
        return replace(binding, description=_("Close"))
    return replace(binding, description=_(binding.description)) if binding.description else binding


class StepScreen(WizardScreen):
    """One step."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bound("next", "finish", N_("Next"), priority=True),
        bound("back", "back", N_("Back")),
        bound("help", "help", N_("Help")),
    ]
    STEP: ClassVar[int] = 0
    HEADING: ClassVar[str] = ""
    MAIN: ClassVar[str] = N_("Next")
    returned = False
    """Whether one came back here, to answer otherwise."""

    def compose(self) -> ComposeResult:
        yield Rail(self.STEP)
        yield Static(_(self.HEADING), id="heading", markup=False)
        with VerticalScroll(id="body", can_focus=False):
            yield from self.compose_body()
        yield Closed("", id="closed", markup=False)
        with Buttons(id="buttons"):
            if self.STEP:
                yield Button(_("Back"), id="back", compact=True)
            yield from self.compose_buttons()
            yield Button(_(self.MAIN), id="main", variant="primary", compact=True)
        yield Foot(compact=True)

    def compose_body(self) -> ComposeResult:
        """The step's own widgets."""
        yield from ()

    def compose_buttons(self) -> ComposeResult:
        """Further buttons, left of the main one."""
        yield from ()

    def on_mount(self) -> None:
        self.fill()

    def fill(self) -> None:
        """Show the answers there are."""

    def take(self) -> str | None:
        """Keep the answers of this screen. Returns why one cannot go on yet, or None."""
        return None

    def close(self, reason: str) -> None:
        """Say why the way on is closed; an empty reason opens it."""
        self.query_one(Closed).say(reason)

    def action_next(self) -> None:
        reason = self.take()
        self.close(reason or "")
        if reason is None:
            self.go_on()

    def action_finish(self) -> None:
        """The key for the next step."""
        self.after_typing(self.action_next)

    def go_on(self) -> None:
        """To the next step."""
        self.owner.go_to(self.STEP + 1)

    def action_back(self) -> None:
        self.take()
        if self.STEP:
            self.owner.go_to(self.STEP - 1, back=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The buttons that every step has. Textual also calls the handler of a step of its own, before this one."""
        if event.button.id == "main":
            event.stop()
            self.action_next()
        elif event.button.id == "back":
            event.stop()
            self.action_back()

    def action_receipt(self) -> None:
        """The whole receipt of the run that is shown, for the steps that have a key for it."""
        from tui.screens.dialogs import ReceiptScreen

        if self.owner.shown.live.receipt is not None:
            self.owner.push_screen(ReceiptScreen(self.owner.shown.live.receipt))

    def on_rail_step_chosen(self, event: RailStep.Chosen) -> None:
        event.stop()
        if event.number < self.STEP and self.may_leave():
            self.take()
            self.owner.go_to(event.number, back=True)

    def may_leave(self) -> bool:
        """Whether one may go back from here."""
        return True

    def focus_main(self) -> None:
        """Enter goes on."""
        self.query_one("#main", Button).focus()

    def focus_main_or(self, field: PathInput) -> None:
        """Enter goes on with what is known; who came back means to change it."""
        if self.returned:
            field.focus_input()
        else:
            self.focus_main()

    def focus_main_unless_closed(self) -> None:
        """A field was left with Enter: on to the main button, unless what it holds is known to be of no use."""
        if not self.query_one("#closed", Static).display:
            self.focus_main()

    def back_to(self, field: PathInput) -> None:
        """What was answered cannot be used: the cursor goes back to it, if it has gone on to the main button."""
        if self.focused is self.query_one("#main"):
            field.focus_input()


class PathStep(StepScreen):
    """A step that asks for a path: it is typed, pasted or browsed for wherever the focus is, and looked at before one goes on."""

    BINDINGS: ClassVar[list[BindingType]] = [bound("browse", "browse", N_("Browse"))]

    def __init__(self) -> None:
        super().__init__()
        self._asked: str | None = None
        """What is looked at, or was; None: nothing that counts any more."""
        self._going = False
        """Whether one goes on as soon as it is known."""
        self._pause: Timer | None = None

    def _begin_anew(self, asked: str | None) -> None:
        """What was found out no longer counts; `asked` is looked at now."""
        raise NotImplementedError

    def _knows(self, value: str) -> bool:
        """Whether it is known what `value` is."""
        raise NotImplementedError

    def _find_out(self, value: str) -> None:
        """Ask the engine what `value` is."""
        raise NotImplementedError

    def _look_if_there(self, value: str) -> None:
        """`_look` at what was typed and may not be whole yet."""
        raise NotImplementedError

    def _look(self, value: str) -> None:
        """Have it found out what `value` is, unless it is known."""
        if self._pause is not None:
            self._pause.stop()  # else it is found out a second time, beside the first
        if self._knows(value):
            return
        going = self._going
        self._begin_anew(value)
        self._going = going
        self._find_out(value)

    def action_next(self) -> None:
        value = self.query_one(PathInput).value
        if value and not self._knows(value):
            self._going = True
            self._look(value)
            return
        super().action_next()

    def on_path_input_typed(self, event: PathInput.Typed) -> None:
        if event.value == self._asked:  # it was gone on with before this came
            return
        self._begin_anew(None)
        self.query_one("#summary", Static).update("")
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, partial(self._look_if_there, event.value))

    def on_path_input_settled(self, event: PathInput.Settled) -> None:
        if event.value:
            self._look(event.value)
            self.focus_main_unless_closed()

    def action_browse(self) -> None:
        """The file dialog of the step's path, wherever the focus is."""
        self.query_one(PathInput).browse()

    def on_key(self, event: Key) -> None:
        """A path is typed at once, wherever the focus is: on the main button, where an answer is remembered."""
        # A space beside the field means what is focused there; one that comes after other letters is part of the path.
        in_path = event.character != " " or self.focused is self.query_one("PathInput Input")
        if event.is_printable and in_path and event.key not in self.active_bindings:
            self._typed_elsewhere(event)

    def on_paste(self, event: Paste) -> None:
        """As what is typed; a file dropped on the terminal comes like this."""
        self._typed_elsewhere(event)

    def _typed_elsewhere(self, event: Key | Paste) -> None:
        # What is typed fast is under way to where the focus was, while it has gone to the field with the first character.
        inside = self.focused.ancestors_with_self if self.focused is not None else ()
        if not any(isinstance(one, Setting) for one in inside):
            event.stop()
            self.query_one(PathInput).take_over(event)
