"""Step 3: where the run goes, and what already lies there."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.widgets import Static

from engine.errors import LoraTuiError
from engine.i18n import _
from engine.paths import path_of
from engine.resume.seen import Seen, see
from tui.fields import lines_text, told
from tui.folder_text import seen_lines
from tui.i18n import N_
from tui.messages import Found
from tui.screens.base import PathStep
from tui.widgets.path_input import PathInput


class OutputScreen(PathStep):
    """Choose the folder of the run."""

    STEP = 2
    HEADING = N_("Where should the run go?")
    HELP_TEXT: ClassVar[str] = N_(
        "The folder of the run: its checkpoints, the final adapter, run.toml with every setting, the record of what happened "
        "(events.jsonl) and the log.\n\nName the folder of an earlier run to continue it; nothing in it is overwritten. A fresh run "
        "in an occupied folder goes into a new one beside it (OUT-2)."
    )

    def __init__(self) -> None:
        super().__init__()
        self._seen: Seen | None = None

    def compose_body(self) -> ComposeResult:
        yield PathInput("folder", _("folder of the run"), self.HELP_TEXT, id="output")
        yield Static("", id="summary", markup=False)

    def fill(self) -> None:
        value = self.wizard.answers.get("output") or self.wizard.proposed_output()
        self.query_one("#output", PathInput).value = str(value)
        self._look(str(value))
        self.focus_main_or(self.query_one("#output", PathInput))

    def take(self) -> str | None:
        value = self.query_one("#output", PathInput).value
        if not value:
            return _("Name a folder.")
        if value != self.wizard.answers.get("output"):
            self.wizard.answer("output", value)
        if self._seen is None or self._asked != value:
            return _("Still looking.")
        return told(self._seen.place.problem) if self._seen.place.problem is not None else None

    def _begin_anew(self, asked: str | None) -> None:
        """What was seen is another folder."""
        self._asked, self._seen, self._going = asked, None, False
        self.close("")

    def _knows(self, value: str) -> bool:
        return self._seen is not None and self._asked == value

    def _look_if_there(self, value: str) -> None:
        """Also at one that is not there yet: it will be made."""
        if value:
            self._look(value)

    def _find_out(self, value: str) -> None:
        self.query_one("#summary", Static).update(_("Looking"))
        self.ask("seen", value, partial(see, path_of(value)))

    def on_found(self, event: Found) -> None:
        event.stop()
        if event.asked != self._asked:
            return
        going, self._going = self._going, False
        if isinstance(event.value, LoraTuiError):
            self.close(told(event.value))
            self.back_to(self.query_one("#output", PathInput))
            return
        seen: Seen = event.value
        self._seen = seen
        self.query_one("#summary", Static).update(lines_text(seen_lines(seen)))
        self.close(told(seen.place.problem) if seen.place.problem is not None else "")
        if seen.place.problem is not None:
            self.back_to(self.query_one("#output", PathInput))
        elif going:
            self.action_next()
