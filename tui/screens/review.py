"""The review: everything that is about to happen, before it does. From here, Start starts."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from rich.cells import set_cell_size
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Button, Static

from engine.config import RunConfig
from engine.errors import CannotContinue, LoraTuiError
from engine.i18n import _
from engine.models.templates import MODELS_OWN
from engine.training.expect import Expected, expect
from tui.expected_text import expected_lines
from tui.fields import label, lines_text, told
from tui.folder_text import held_words
from tui.i18n import N_
from tui.keys import bound
from tui.lookups import expect_counted
from tui.messages import Found
from tui.plain import visible
from tui.plan_text import plan_lines
from tui.screens.base import SHORT, StepScreen
from tui.widgets.setting import Setting
from tui.wizard import READING, SETTINGS, TEMPLATE, Planned, Start


class ReviewScreen(StepScreen):
    """See the plan, and start it."""

    STEP = 4
    HEADING = N_("This is what will happen")
    MAIN = N_("Start training")
    HELP_TEXT: ClassVar[str] = N_(
        "The plan as it will be carried out. Nothing has been started or changed so far.\n\nFor a continued run every setting that "
        "differs from the saved one is listed, with the side that wins and why. The command at the end does the same without the "
        "wizard; y copies it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [bound("copy", "copy", N_("Copy command"))]

    def __init__(self) -> None:
        super().__init__()
        self._planned: Planned | None = None
        self._counted = False
        """Whether what is expected knows the lengths of the rows."""

    def compose_body(self) -> ComposeResult:
        yield Static(_("Looking"), id="plan", markup=False)
        yield Static("", id="expected", markup=False)
        yield Static("", id="command", markup=False)
        yield Static("", id="settings", markup=False)

    def compose_buttons(self) -> ComposeResult:
        yield Button(_("Copy command"), id="copy", compact=True)
        yield Button(_("Train longer"), id="longer", compact=True)
        yield Button(_("Start fresh instead"), id="fresh", compact=True)

    def fill(self) -> None:
        self.query_one("#fresh").display = self.query_one("#longer").display = False
        self.query_one("#main", Button).disabled = True
        self.ask("plan", None, self.wizard.make_plan)

    def on_found(self, event: Found) -> None:
        event.stop()
        if event.what == "plan":
            self._show_plan(event.value)
        elif isinstance(event.value, Expected):
            self._counted = self._counted or event.what == "counted"
            if event.what == "counted" or not self._counted:
                self.query_one("#expected", Static).update(lines_text(expected_lines(event.value)))
            if event.what == "counted" and event.value.stopped is not None:  # a start would only find the same
                self.query_one("#main", Button).disabled = True
                self.close(told(event.value.stopped))
                self.query_one("#back", Button).focus()
        elif isinstance(event.value, LoraTuiError) and event.what != "counted":
            self.close(told(event.value))

    def _show_plan(self, value: Any) -> None:
        if isinstance(value, LoraTuiError):
            self.query_one("#plan", Static).update("")
            self.close(told(value))
            self.query_one("#fresh").display = isinstance(value, CannotContinue)
            self.query_one("#back", Button).focus()
            return
        self._planned = self.wizard.planned = value
        self.refresh_bindings()
        plan = value.plan
        self.wizard.done_by = plan.done_by
        self.query_one("#plan", Static).update(lines_text(plan_lines(plan)))
        self.query_one("#settings", Static).update(_settings_text(plan.config, self.wizard.answers))
        self.query_one("#command", Static).update(
            Text.assemble((_("the same without the wizard:") + "\n", "dim"), visible(self.wizard.command_line()))
        )
        if value.held:  # what is planned here would be refused, and be another plan once that run has ended
            self.close(held_words(plan.output_dir))
            self.query_one("#fresh").display = True
            self.query_one("#back", Button).focus()
            return
        main = self.query_one("#main", Button)
        main.disabled = False
        if plan.mode == "complete":
            self.query_one("#longer").display = True
            main.label = _("Show the result")
            main.refresh(layout=True)
        self.focus_main()
        if plan.mode == "complete":
            return
        self.query_one("#expected", Static).update(_("Looking at this machine"))
        report = self.wizard.report_by(str(plan.config.model))
        self.ask("expected", None, lambda: expect(plan, report))
        if report is None or report.tokens is None:  # who came here before they were counted is told no less
            self.ask("counted", None, partial(expect_counted, plan))

    def action_next(self) -> None:
        if self._planned is not None and not self.query_one("#main", Button).disabled:
            self.query_one("#main", Button).disabled = True
            self.owner.start_run(self._planned.plan)

    def action_back(self) -> None:
        self.owner.go_to(4)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "copy" or self._planned is not None

    def action_copy(self) -> None:
        if self._planned is not None:  # the button, too
            self.owner.copy_to_clipboard(self.wizard.command_line())
            self.notify(_("The command is in the clipboard."), timeout=SHORT, markup=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "copy":
            event.stop()
            self.action_copy()
        elif event.button.id == "longer":  # the field that it takes is the first there (Wizard.done_by)
            event.stop()
            self.action_back()
        elif event.button.id == "fresh":
            event.stop()
            self.wizard.start, self.wizard.done_by = Start("fresh"), None
            self.owner.go_to(4)


def _settings_text(config: RunConfig, answers: dict[str, Any]) -> Text:
    """Every setting, those that a person chose here apart from the rest."""
    text = Text(_("settings"), style="bold")
    read = [name for name in READING if getattr(config, name) != RunConfig.model_fields[name].default]
    written = [TEMPLATE] if config.chat_template != MODELS_OWN else []
    names = [
        name for name in ("dataset", *read, "model", *written, "output", *SETTINGS) if getattr(config, name) is not None
    ]
    for name in names:
        value = answers.get(name, getattr(config, name)) if name in ("dataset", "model") else getattr(config, name)
        chosen = name in answers
        shown = Setting.text_of(value)  # as it stands in its field
        text.append(f"\n{'* ' if chosen else '  '}{set_cell_size(label(name), 25)}", style="not bold")
        text.append(visible(shown), style="bold" if chosen else "not bold")
    return text
