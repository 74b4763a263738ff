"""Step 5: the few settings that matter, each checked when it is left; the rest behind "more"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import DescendantBlur
from textual.widget import Widget
from textual.widgets import Collapsible, Input, Static

from engine.config import RunConfig
from engine.errors import LoraTuiError
from engine.i18n import _
from tui.fields import done_words, label, told
from tui.i18n import N_
from tui.messages import Found
from tui.screens.base import StepScreen
from tui.widgets.setting import Setting, answer_of
from tui.wizard import FIRST_SETTINGS, SETTINGS

MORE = tuple(name for name in SETTINGS if name not in FIRST_SETTINGS)


class SettingsScreen(StepScreen):
    """How to train."""

    STEP = 4
    HEADING = N_("How should it be trained?")
    MAIN = N_("Review")
    HELP_TEXT: ClassVar[str] = N_(
        "These are sound values to begin with; Review goes on with them. Each field is explained by F1 while the cursor is in it. A "
        "continued run shows the settings it was started with."
    )

    def __init__(self) -> None:
        super().__init__()
        self._base: RunConfig | None = None

    def compose_body(self) -> ComposeResult:
        yield Static(_("Looking"), id="summary", markup=False)
        yield Vertical(id="first")
        # Open from the beginning where one of them was answered: what is opened later is scrolled to, past those that matter.
        with Collapsible(title=_("More settings"), collapsed=self.wizard.answers.keys().isdisjoint(MORE), id="more"):
            yield Vertical(id="rest")

    def fill(self) -> None:
        self.query_one("#more").display = False
        self.ask("base", None, self.wizard.base)

    async def on_found(self, event: Found) -> None:
        event.stop()
        if isinstance(event.value, LoraTuiError):
            self.query_one("#summary", Static).update("")
            self.close(told(event.value))
            return
        self._base = event.value
        if self.wizard.done_by == "epochs" and self.wizard.answers.get("max_steps", self._base.max_steps) is not None:
            self.wizard.done_by = "max_steps"  # the start step has not read by which of the two the run's length is given
        asked_for = self.wizard.done_by
        self.query_one("#summary", Static).display = False
        await self._mount("#first", FIRST_SETTINGS)
        more = self.query_one("#more", Collapsible)
        more.display = True
        if not {*self.wizard.answers, asked_for}.isdisjoint(MORE):
            await self._mount("#rest", MORE)
            more.collapsed = False
        if asked_for is None:
            self.focus_main()
        else:
            field = next(one for one in self.query(Setting) if one.setting == asked_for)
            # Right above it: it may stand so far down that the top of the screen is not seen with it.
            await self.query_one("#rest" if asked_for in MORE else "#first").mount(
                Static(done_words(asked_for), id="done", markup=False), before=field
            )
            field.focus_field()

    async def on_collapsible_expanded(self, event: Collapsible.Expanded) -> None:
        """The rest is made when it is looked at: its fields are most of the screen, and most people need none of them."""
        if self._base is not None and not self.query_one("#rest").children:
            await self._mount("#rest", MORE)

    async def _mount(self, group: str, names: Sequence[str]) -> None:
        fields = [Setting(name, self.wizard.answers.get(name, getattr(self._base, name))) for name in names]
        await self.query_one(group, Vertical).mount_all(fields)  # none is asked for its value before it has one

    def on_descendant_blur(self, event: DescendantBlur) -> None:
        """A field was left."""
        setting = _setting_of(event.widget)
        if setting is not None:
            setting.check()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was wrong may be right now; what is being typed for the first time is looked at when it is left."""
        wrong = self.query(".-wrong").results(Setting)
        if not any(one.check() is not None for one in wrong):
            self.close("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        setting = _setting_of(event.input)
        asked_for = setting is not None and setting.setting == self.wizard.done_by
        self.focus_main() if asked_for else self.focus_next()

    def take(self) -> str | None:
        if self._base is None:
            return _("Still looking.")
        wrong = []
        for setting in self.query(Setting):
            raw = setting.raw
            if setting.check() is not None:
                wrong.append(setting)
            else:
                as_before = raw == Setting.text_of(getattr(self._base, setting.setting))
                self.wizard.answer(setting.setting, None if as_before else answer_of(setting.setting, raw))
        if wrong:
            if wrong[0].setting in MORE:
                self.query_one("#more", Collapsible).collapsed = False
            wrong[0].focus_field()
            return _("{name}: this value cannot be used").format(name=label(wrong[0].setting))
        return None

    def go_on(self) -> None:
        from tui.screens.review import ReviewScreen

        self.owner.show_screen(ReviewScreen())


def _setting_of(widget: Widget) -> Setting | None:
    """The line of the form that `widget` is in."""
    return next((node for node in widget.ancestors_with_self if isinstance(node, Setting)), None)
