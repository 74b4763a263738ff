"""Step 7: what was reached, what it means, where the adapter lies, and what to do next."""

from __future__ import annotations

import math
import shlex
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Button, Static

from engine.errors import CannotContinue
from engine.events import RunFailed, RunFinished, RunStopped
from engine.folder import RUN_LOG, RUN_TOML
from engine.i18n import _
from engine.paths import is_file, is_folder
from engine.sizes import loss_words
from engine.sources import as_flags
from tui.at_work import Shown
from tui.event_text import into_ollama, stopped_standing
from tui.i18n import N_
from tui.keys import bound
from tui.plain import visible
from tui.screens.base import SHORT, StepScreen
from tui.training_text import jump_text, picture, receipt_text
from tui.widgets.chart import LossChart
from tui.wizard import Start

TRAIN_ON = ("keep_going", "reached")
"""Advice that training longer does not go against."""
STEPS = {"again": 3, "fresh": 4, "settings": 4, "new": 0}
"""The buttons that lead back into the wizard, and where to."""
READ = 1.5
"""Seconds for which Enter does nothing where nobody had to wait for the result."""


class ResultScreen(StepScreen):
    """How it ended."""

    STEP = 6
    AUTO_FOCUS = ""  # `fill` says when
    HEADING = N_("Result")
    MAIN = N_("Leave")
    HELP_TEXT: ClassVar[str] = N_(
        "A training loss of 0.1 to 0.3 is usually good enough to try the model. From 0.3 to 0.5 it can be tried, and another epoch "
        "or two may help. Above 0.5 go on; below 0.1 the rows are known by heart, or the data is not what it seems. What counts in "
        "the end is what the model answers: try it."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        bound("copy", "copy", N_("Copy")),
        bound("receipt", "receipt", N_("Receipt")),
        bound("talk", "talk", N_("Talk to it")),
        bound("export", "export", N_("Export")),
        bound("continue", "step('again')", N_("Continue")),
        bound("new", "step('new')", N_("New dataset")),
    ]

    def compose_body(self) -> ComposeResult:
        yield Static("", id="outcome", markup=False)
        yield Static("", id="jump", markup=False)
        yield LossChart(ascii_only=self.owner.ascii_only, id="chart")
        yield Static("", id="receipt", markup=False)

    def compose_buttons(self) -> ComposeResult:
        yield Button(_("Talk to it"), id="talk", compact=True)
        yield Button(_("Export"), id="export", compact=True)
        yield Button(_("Continue this run"), id="again", compact=True)
        yield Button(_("Start fresh"), id="fresh", compact=True)
        yield Button(_("Settings"), id="settings", compact=True)
        yield Button(_("New dataset"), id="new", compact=True)

    def fill(self) -> None:
        self.query_one("#back").display = False
        live, error = self.owner.shown.live, self.owner.shown.error
        self.query_one("#outcome", Static).update(outcome_text(self.owner.shown))
        self.query_one("#chart", LossChart).show(picture(live))
        self.query_one("#chart").display = bool(live.loss_curve.points or live.history.points)
        told = [live.reset] if live.reset is not None else []
        told += [live.jump] if live.jump is not None and live.jump is not live.reset else []
        jumps = self.query_one("#jump", Static)
        jumps.display = bool(told)
        jumps.update(Text("\n").join(jump_text(jump, ()) for jump in told))
        receipt = self.query_one("#receipt", Static)
        receipt.display = live.receipt is not None
        if live.receipt is not None:
            receipt.update(receipt_text(live.receipt, names=False))  # a short run was over before anybody could read it
        for name in ("#fresh", "#settings"):
            self.query_one(name).display = error is not None
        self.query_one("#talk").display = self.query_one("#export").display = self._adapter_is_there()
        if isinstance(error, CannotContinue):
            self.query_one("#again", Button).label = _("Choose another checkpoint")
            self.query_one("#again", Button).refresh(layout=True)
        plan = self.owner.shown.plan
        # A complete run's result comes at once: one Enter too many must not leave before it was read.
        self.set_timer(READ if plan is not None and plan.mode == "complete" else 0.001, self.focus_main)

    def may_leave(self) -> bool:
        return True

    def action_next(self) -> None:
        self.owner.leave_with_result()

    def action_back(self) -> None:
        self.owner.go_to(3)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("talk", "export"):
            return self._adapter_is_there()
        if action == "receipt":
            return self.owner.shown.live.receipt is not None
        return action != "finish"  # there is none, and a key that went on so far must not end the program

    def _adapter_is_there(self) -> bool:
        """Whether this run left something that can be talked to."""
        ended = self.owner.shown.live.ended
        return isinstance(ended, RunFinished) or (isinstance(ended, RunStopped) and ended.checkpoint is not None)

    def action_talk(self) -> None:
        if self.owner.shown.plan is not None:
            from tui.screens.chat import ChatScreen

            self.owner.push_screen(ChatScreen(self.owner.shown.plan.output_dir))

    def action_export(self) -> None:
        if self.owner.shown.plan is not None:
            from tui.screens.export import ExportScreen

            self.owner.push_screen(ExportScreen(self.owner.shown.plan.output_dir))

    def action_copy(self) -> None:
        """What is written here, for a message to somebody who can help."""
        self.owner.copy_to_clipboard(farewell(self.owner.shown).plain)
        self.notify(_("It is in the clipboard."), timeout=SHORT, markup=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        actions = {"talk": self.action_talk, "export": self.action_export}
        if event.button.id in actions:
            event.stop()
            actions[event.button.id]()
            return
        if event.button.id in STEPS:
            event.stop()
            self.action_step(event.button.id)

    def action_step(self, name: str) -> None:
        """Back into the wizard, by the button `name` or its key."""
        if name != "settings":  # the same run, asked for otherwise
            self.wizard.start = Start("fresh") if name == "fresh" else Start("auto")
        self.wizard.planned = None
        if self.owner.shown.plan is not None and name == "again":
            self.wizard.answer("output", str(self.owner.shown.plan.output_dir))
        self.owner.go_to(STEPS[name])


def outcome_text(run: Shown) -> Text:
    """How the run ended, in words."""
    ended, error, folder = run.live.ended, run.error, run.folder
    if error is not None:
        text = Text(visible(error.title), style="bold red")
        for more in (error.detail, error.fix):
            if more:
                text.append("\n" + visible(more, keep_lines=True), style="not bold")
        if folder is not None and is_file(folder / RUN_LOG):
            text.append("\n" + _("log: {path}").format(path=visible(str(folder / RUN_LOG))), style="not bold dim")
        return text
    if isinstance(ended, RunFinished):
        evaluated = _(" · eval loss {loss}").format(loss=loss_words(ended.eval_loss)) if ended.eval_loss is not None else ""
        words = _("done · step {step} · epoch {epoch:.2f} · loss {loss}{evaluated}").format(
            step=ended.step, epoch=ended.epoch, loss=loss_words(ended.loss), evaluated=evaluated
        )
        text = Text(words, style="bold green")
        text.append("\n" + visible(ended.advice["message"]), style="not bold")
        text.append("\n" + _("adapter: {path}").format(path=visible(ended.adapter)), style="not bold")
        if folder is not None:
            text.append("\n" + visible(into_ollama(folder)), style="not bold")
            if ended.advice["state"] in TRAIN_ON:
                more = str(max(2, 2 * math.ceil(ended.epoch)))
                asked = {"output": str(folder)}
                if run.plan is not None and not is_file(folder / RUN_TOML):  # another tool's, which says nothing of them
                    asked |= {"dataset": str(run.plan.config.dataset), "model": str(run.plan.config.model)}
                command = shlex.join(["lora-tui", "--yes", *as_flags(asked | {"epochs": more})])
                text.append("\n" + _("longer: {command}").format(command=visible(command)), style="not bold")
        return text
    if isinstance(ended, RunStopped):
        words = _("stopped at step {step}, epoch {epoch:.2f}").format(step=ended.step, epoch=ended.epoch)
        text = Text(words + stopped_standing(ended), style="bold yellow")
        if ended.advice is not None:
            text.append("\n" + visible(ended.advice["message"]), style="not bold")
        if ended.checkpoint is not None:
            line = _("saved: {name}. Continuing goes on from there.").format(name=ended.checkpoint)
            text.append("\n" + visible(line), style="not bold")
        return text
    if isinstance(ended, RunFailed):
        return Text(visible(ended.title), style="bold red")
    return Text(_("nothing was trained yet"))


def farewell(run: Shown) -> Text:
    """What stays on the terminal: the outcome and how to go on."""
    text = outcome_text(run)
    if run.folder is not None and is_folder(run.folder) and not isinstance(run.live.ended, RunFinished):
        command = shlex.join(["lora-tui", "--yes", *as_flags({"output": str(run.folder), "resume": "auto"})])
        text.append("\n" + visible(command), style="not bold")
    return text
