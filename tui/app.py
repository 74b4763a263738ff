"""LoraTui: the wizard as a straight line of screens, and the owner of what must outlive one.

The app owns three things: the answers (Wizard), the run that is shown (at_work.py), and the way out. Screens come and go; a run goes
on.

The terminal is left as it was found whatever happens: on the normal way out, on a signal (which saves first), and after a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.console import Console, RenderableType
from rich.text import Text
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.command import CommandPalette
from textual.dom import DOMNode
from textual.filter import LineFilter
from textual.screen import Screen
from textual.theme import ThemeProvider
from textual.widget import AwaitMount

from engine.events import RunStopped
from engine.i18n import _
from engine.paths import as_argument
from engine.remembered import Remembered, load_remembered, save_remembered
from tui.ascii import AsciiFilter, ascii_drawn
from tui.at_work import RunAtWork, Shown
from tui.breaking import break_between_characters
from tui.i18n import N_
from tui.keys import DEFAULT, bound, own_keys
from tui.messages import RunEnded
from tui.opening import opened
from tui.plain import visible
from tui.signals import heeded, is_echo
from tui.widgets.menu import Menu
from tui.wizard import Wizard

if TYPE_CHECKING:
    from engine.resume.plan import ResumePlan
    from engine.runner import Runner

RARELY = (10_000, 4, 100)
"""Python's collector, told to go through everything less often: each time it does, keys wait for a tenth of a second. What a screen
leaves behind in circles is small, and what is young is still collected."""


class LoraTui(App[int]):
    """The wizard."""

    TITLE = "lora-tui"
    CSS_PATH = "lora.tcss"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide"), (132, "-very-wide")]  # noqa: RUF012 - declared so by Textual
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [bound("quit", "leave", N_("Quit"), priority=True, show=True)]

    def __init__(
        self,
        flags: dict[str, Any] | None = None,
        demo: bool = False,
        runner: Runner | None = None,
        remembered: Remembered | None = None,
        log: Path | None = None,
        ascii_only: bool = False,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """`flags`: answers given on the command line. `log`: where the wizard's own faults are told. `keys`: own ones (keys.py)."""
        self.own_keys = dict(keys or {})
        self.COMMAND_PALETTE_BINDING = self.own_keys.get("menu", DEFAULT["menu"])  # type: ignore[misc]
        super().__init__()
        break_between_characters()
        # What is to stay on the terminal goes there, not to sys.stderr, which is the log's (own_terminal); and it is not broken into
        # lines, so that a long command can be copied.
        self.error_console = Console(file=sys.__stderr__, markup=False, highlight=False, soft_wrap=True)
        known = remembered if remembered is not None else load_remembered()
        self.wizard = Wizard(demo=demo, answers=dict(flags or {}), remembered=known)
        self._runner = runner
        self.shown = Shown()
        self.log_path = log
        self.ascii_only = ascii_only
        self._ascii = [AsciiFilter()] if ascii_only else []
        self.awaited = False
        """Whether, when it was left, something was at work in a thread that is to come to its end."""
        self._exit_after: int | None = None
        self._signal = ("", 0.0)
        """The first signal that came, and when."""
        self.theme = (
            known.look.get("theme", "textual-dark") if known.look.get("theme") in self.available_themes else "textual-dark"
        )

    # -- the line of screens -------------------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        self.set_keymap(self.own_keys)
        self._listen_to_signals()
        self.theme_changed_signal.subscribe(self, lambda theme: self._remember_look(theme.name))
        self.call_after_refresh(self._settle)
        # Textual waits for each screen it changes to, but not for the first one: a key typed ahead met a screen without its fields.
        await AwaitMount(self.screen, [self.screen])

    def get_default_screen(self) -> Screen[Any]:
        """The first step, at once: the first frame is not to wait for a screen that nobody sees."""
        from tui.screens.dataset import DatasetScreen

        return DatasetScreen()

    def go_to(self, step: int, back: bool = False) -> None:
        """Enter step `step`, 0 to 6; `back`: from a later one."""
        from importlib import import_module

        module, name = (
            ("dataset", "DatasetScreen"),
            ("model", "ModelScreen"),
            ("output", "OutputScreen"),
            ("start", "StartScreen"),
            ("settings", "SettingsScreen"),
            ("training", "TrainingScreen"),
            ("result", "ResultScreen"),
        )[step]
        screen = getattr(import_module(f"tui.screens.{module}"), name)()
        screen.returned = back
        self.show_screen(screen)

    def show_screen(self, screen: Screen[Any]) -> None:
        """Put `screen` in place of the step that is shown. The very first one stays below: a stack must not be empty."""
        if len(self.screen_stack) > 1:
            self.switch_screen(screen)
        else:
            self.push_screen(screen)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What every line passes before it is drawn."""
        return [*super().get_line_filters(), *self._ascii]

    def _settle(self) -> None:
        """After the first frame: what was put off for it."""
        import gc

        gc.freeze()
        gc.set_threshold(*RARELY)
        gc.enable()
        self._preload()

    def _preload(self) -> None:
        """Import what a run needs while the person is still answering."""
        from engine.hardware import share_the_processor

        share_the_processor()

        def load() -> None:
            from engine.hardware import load_libraries

            try:
                load_libraries()
            except Exception:
                # The run itself will say it, to the person; here it costs nothing but the head start.
                logging.getLogger(__name__).exception("importing the training libraries failed")

        threading.Thread(target=load, name="preload", daemon=True).start()

    # -- the run -------------------------------------------------------------------------------------------------------

    def start_run(self, plan: ResumePlan) -> None:
        """Carry out `plan` in a thread and show the training screen."""
        assert not self.shown.running, "one run at a time"
        run = self.shown = RunAtWork(plan, self._runner)
        self.wizard.remember(plan)
        self.run_worker(partial(self._carry_out, run), name="run", group="run", thread=True, exit_on_error=False)
        self.go_to(5)

    def _carry_out(self, run: RunAtWork) -> None:
        run.carry_out()
        with contextlib.suppress(Exception):  # the app has gone: there is nobody to tell
            self.post_message(RunEnded(run))

    def leave_with_result(self) -> None:
        """The end of the line: 0, or the code of what went wrong (C1)."""
        self.shown.take_in()  # its end may have been told since the screen looked last
        code = self.shown.error.exit_code if self.shown.error is not None else 0
        self.exit(code, return_code=code, message=self._farewell())

    def on_run_ended(self, message: RunEnded) -> None:
        message.stop()
        if self._exit:  # who has left has had the last words, and no screen is to come
            return
        run = message.run
        run.take_in()
        if run.left:
            self.exit(self._exit_after or 0, return_code=self._exit_after or 0, message=self._goes_on())
            return
        self._announce(run)
        if self._exit_after is not None or run.then == "exit":
            code = run.error.exit_code if run.error is not None else self._exit_after or 0
            self.exit(code, return_code=code, message=self._farewell())
            return
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if run.then == "start" and run.live.jump is not None:
            self.wizard.back_from_jump(run.plan)
        self.go_to(3 if run.then == "start" and run.error is None else 6)

    def _announce(self, run: RunAtWork) -> None:
        """The end of a run, for who has turned to something else: the bell, and OSC 9, which terminals show as a notification."""
        saved = isinstance(run.live.ended, RunStopped) and run.live.ended.checkpoint is not None
        stopped = _("the run was stopped and saved") if saved else _("the run was stopped")
        state = run.outcome.state if run.outcome is not None else "failed"
        words = {"finished": _("the run has finished"), "stopped": stopped}.get(state, _("the run has failed"))
        self.bell()
        if self._driver is not None:
            self._driver.write(f"\x1b]9;lora-tui: {words}\x07")

    # -- the way out ---------------------------------------------------------------------------------------------------

    def exit(self, result: int | None = None, return_code: int = 0, message: RenderableType | None = None) -> None:
        """Leave, once: who is already leaving (a key pressed twice, a signal meanwhile) has had the last words."""
        if not self._exit:
            self._see_what_is_at_work()
            if self.ascii_only and isinstance(message, Text):
                message.plain = ascii_drawn(message.plain)
            super().exit(result, return_code, message)

    def _see_what_is_at_work(self) -> None:
        """While the screens are still there."""
        from tui.screens.base import WizardScreen

        self.awaited = any(isinstance(one, WizardScreen) and one.awaited for one in self.screen_stack)

    async def action_quit(self) -> None:
        self.action_leave()

    def action_help_quit(self) -> None:
        """ctrl+c answers as ctrl+q does."""
        self.action_leave()

    def action_leave(self) -> None:
        """Quit; while a run or an export is at work, ask first. The same key again is the answer: stop, and quit."""
        from tui.screens.base import WizardScreen
        from tui.screens.dialogs import QuitScreen

        if self.shown.running and self.shown.detached:
            self.shown.leave("user")
        elif not self.shown.running and not any(isinstance(one, WizardScreen) and one.at_work for one in self.screen_stack):
            self.leave_with_result()
        elif isinstance(self.screen, QuitScreen):
            self.screen.dismiss("stop")
        else:
            self.push_screen(QuitScreen(self.shown.running), self._quit_answered)

    def _quit_answered(self, answer: str | None) -> None:
        if answer == "stop" and self.shown.running:
            self.shown.stop("user", then="exit")
        elif answer == "stop":
            self.leave_with_result()

    def _listen_to_signals(self) -> None:
        """A signal saves first. Textual itself would die of them and leave the terminal as it is."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for name, number, code in heeded():
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, self._signalled, name, code)

    def _signalled(self, name: str, code: int) -> None:
        if self._exit_after is not None:
            first, since = self._signal
            if is_echo(name, first, time.monotonic() - since):
                return
            driver = self._driver
            if driver is not None:
                with contextlib.suppress(Exception):
                    driver.stop_application_mode()
            os._exit(code)
        self._exit_after, self._signal = code, (name, time.monotonic())
        if self.shown.running:
            self.shown.leave(name)
        else:
            self.exit(code, return_code=code)

    def _goes_on(self) -> Text | None:
        """What stays on the terminal of who leaves a detached run at work."""
        from tui.headless import goes_on_words

        folder = self.shown.folder
        return Text(visible("\n".join(goes_on_words(folder)), keep_lines=True)) if folder is not None else None

    def _farewell(self) -> Text | None:
        """What stays on the terminal once the wizard is gone."""
        if not (self.shown.outcome or self.shown.error):
            return None
        from tui.screens.result import farewell

        return farewell(self.shown)

    def _handle_exception(self, error: Exception) -> None:
        """What fails once the wizard is being left (a screen whose parts go while it is being opened) belongs to the log alone: the
        last words and the exit code are those of who left. Called by Textual."""
        if self._exit:
            logging.getLogger(__name__).error("failed while it was being left", exc_info=error)
        else:
            super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """A fault of the wizard: the traceback belongs to the log; the person reads what to do. Called by Textual."""
        import traceback

        logging.getLogger(__name__).critical("the wizard failed\n%s", traceback.format_exc())
        words = [_("lora-tui failed: {error}").format(error=self._exception or "")]
        if self.log_path is not None:
            words.append(_("The details are in {path}.").format(path=self.log_path))
        if self.shown.plan is not None:
            words.append(
                _("Continue the run with: lora-tui --yes --output {folder} --resume auto").format(
                    folder=as_argument(self.shown.plan.output_dir)
                )
            )
        self.shown.abandon()
        self._see_what_is_at_work()
        if not self._exit_renderables:
            self._exit_renderables.append(Text(visible("\n".join(words), keep_lines=True)))
            self._close_messages_no_wait()

    # -- palette and look ----------------------------------------------------------------------------------------------

    def action_command_palette(self) -> None:
        """Textual's, in the installed language."""
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(Menu(placeholder=_("Search for a command"), id="--command-palette"))

    def search_themes(self) -> None:
        """Textual's choice of a theme, in the installed language."""
        self.push_screen(Menu(providers=[ThemeProvider], placeholder=_("Search for a theme")))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every key of the screen, its buttons that have none, and the themes."""
        from tui.screens.base import WizardScreen

        for key, one in screen.active_bindings.items():
            binding = one.binding
            if binding.description and binding.show and one.enabled and binding.action != "command_palette":
                callback = partial(self.run_action, binding.action, one.node)
                yield SystemCommand(_(binding.description), _("key: {key}").format(key=key), callback)
        if isinstance(screen, WizardScreen):
            for words, do in screen.commands():
                yield SystemCommand(words, _("a button of this step"), do)
        yield SystemCommand(_("Theme"), _("change the colours"), self.action_change_theme)

    def _remember_look(self, theme: str) -> None:
        if self.wizard.remembered.look.get("theme") != theme:
            look = {**self.wizard.remembered.look, "theme": theme}
            self.wizard.remembered = replace(self.wizard.remembered, look=look)
            save_remembered(self.wizard.remembered)


def wizard_app(node: DOMNode) -> LoraTui:
    """The app of `node`, with its type."""
    return cast(LoraTui, node.app)


def run_wizard(flags: dict[str, Any], demo: bool) -> int:
    """Open the wizard on this terminal; the exit code. Raises ConfigError for keys that cannot be used."""
    from engine.remembered import state_folder
    from tui.streams import ascii_terminal, own_terminal

    keys = own_keys()
    with own_terminal(state_folder() / "wizard.log") as log:
        app = LoraTui(flags, demo, log=log, ascii_only=ascii_terminal(), keys=keys)
        code = opened(app)
        if app.return_code:
            return app.return_code
    return code or 0
