"""One setting as a line of a form."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Select, Static

from engine.config import RunConfig, choices, is_switch
from engine.i18n import _
from engine.sources import as_written, problem_of
from tui.fields import in_fields, label
from tui.help import field_help
from tui.plain import visible


class Setting(Vertical):
    """One field: its name, its value, its one line of help, and what is wrong with it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(classes="setting")
        self.setting = name
        self._value = value
        self.help_text = ""

    def compose(self) -> ComposeResult:
        self.help_text = field_help(self.setting)
        words = choices(self.setting)
        if is_switch(self.setting):
            words = (
                ("true", "false") if RunConfig.model_fields[self.setting].default != "auto" else ("auto", "true", "false")
            )
        with Horizontal(classes="line"):
            yield Static(label(self.setting), classes="label", markup=False)
            if words:
                yield Select(
                    [(word, word) for word in words], value=self.text_of(self._value), allow_blank=False, compact=True
                )
            else:
                yield Input(self.text_of(self._value), compact=True)
            note = in_fields(_(str(RunConfig.model_fields[self.setting].description)))
            yield Static(note, classes="note", markup=False)
        yield Static("", classes="wrong", markup=False)

    @staticmethod
    def text_of(value: Any) -> str:
        """A value as it stands in a field; nothing for None."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return as_written(value)

    @property
    def raw(self) -> str:
        """What stands in the field."""
        found = self.query(Input)
        return found.first().value.strip() if found else str(self.query_one(Select).value)

    @raw.setter
    def raw(self, value: str) -> None:
        found = self.query(Input)
        if found:
            found.first().value = value
        else:
            self.query_one(Select).value = value

    def focus_field(self) -> None:
        """Put the cursor into the field."""
        self.query("Input, Select").first().focus()

    def check(self) -> str | None:
        """What is wrong with it; shown below the field."""
        problem = None
        if self.raw or RunConfig.model_fields[self.setting].default is not None:
            problem = problem_of(self.setting, self.raw)
        note = self.query_one(".wrong", Static)
        note.update(visible(in_fields(problem or "")))
        note.display = problem is not None
        self.set_class(problem is not None, "-wrong")
        return problem


def answer_of(name: str, raw: str) -> Any:
    """The raw answer; an empty one takes a setting back that may be left out."""
    if raw == "":
        return None
    return raw == "true" if is_switch(name) and raw != "auto" else raw
