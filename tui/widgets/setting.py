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
        self.help_text = ""
        self._value = self.text_of(value)
        """What it was made with, or given before its field was there: a key may come before that, and ask for what stands in all."""
        words = choices(name)
        if is_switch(name):
            words = ("true", "false") if RunConfig.model_fields[name].default != "auto" else ("auto", "true", "false")
        self._field: Select[str] | Input = (
            Select([(word, word) for word in words], value=self._value, allow_blank=False, compact=True)
            if words
            else Input(self._value, compact=True)
        )
        self._wrong = Static("", classes="wrong", markup=False)

    def compose(self) -> ComposeResult:
        self.help_text = field_help(self.setting)
        with Horizontal(classes="line"):
            yield Static(label(self.setting), classes="label", markup=False)
            yield self._field
            note = in_fields(_(str(RunConfig.model_fields[self.setting].description)))
            yield Static(note, classes="note", markup=False)
        yield self._wrong

    def on_mount(self) -> None:
        self._field.value = self._value

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
        return str(self._field.value).strip() if self._field.is_mounted else self._value

    @raw.setter
    def raw(self, value: str) -> None:
        self._value = value
        if self._field.is_mounted:
            self._field.value = value

    def focus_field(self) -> None:
        """Put the cursor into the field."""
        self._field.focus()

    def check(self) -> str | None:
        """What is wrong with it; shown below the field."""
        problem = None
        if self.raw or RunConfig.model_fields[self.setting].default is not None:
            problem = problem_of(self.setting, self.raw)
        self._wrong.update(visible(in_fields(problem or "")))
        self._wrong.display = problem is not None
        self.set_class(problem is not None, "-wrong")
        return problem


def answer_of(name: str, raw: str) -> Any:
    """The raw answer; an empty one takes a setting back that may be left out."""
    if raw == "":
        return None
    return raw == "true" if is_switch(name) and raw != "auto" else raw
