"""After the result: the adapter for other programs, as `lora-tui export` does it, with the checks' findings on the screen."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Select, Static

from engine.errors import LoraTuiError
from engine.export.llama_cpp import MEGABYTES, QUANTIZATIONS, to_be_fetched
from engine.export.place import EXPORTS
from engine.i18n import _
from tui.export import Wanted, carry_out
from tui.i18n import N_
from tui.messages import Found, Progressed
from tui.plain import visible
from tui.screens.base import WizardScreen
from tui.screens.dataset import told
from tui.widgets.foot import Foot

AS_STORED = "as stored"


class ExportScreen(WizardScreen):
    """What for, in which number format, under which name."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "export", N_("Export"), priority=True),
        Binding("escape", "back", N_("Back")),
        Binding("f1", "help", N_("Help")),
    ]
    HELP_TEXT: ClassVar[str] = N_(
        "Ollama and llama.cpp take a GGUF file, transformers and vLLM base and adapter merged into one model, PEFT the adapter "
        "alone. What was written is read back and checked before it counts.\n\nThe number format says how many bits a weight has in "
        "the GGUF file: q8_0 is half of f16 and loses hardly anything, q4_k_m a third and loses a little. The command below the "
        "fields does the same without the wizard. What is exported lies in the folder export of the run; nothing there is "
        "written over."
    )

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def compose(self) -> ComposeResult:
        yield Static(_("Export"), id="heading", markup=False)
        with VerticalScroll(id="body", can_focus=False):
            with Horizontal(classes="setting"):
                yield Static(_("For"), classes="label", markup=False)
                yield Select(
                    [
                        (_("Ollama"), "ollama"),
                        (_("llama.cpp: a GGUF file"), "gguf"),
                        (_("transformers, vLLM: base and adapter merged"), "merged"),
                        (_("PEFT: the adapter alone"), "adapter"),
                    ],
                    value="ollama", allow_blank=False, id="to", compact=True,
                )  # fmt: skip
            with Horizontal(classes="setting", id="kind-field"):
                yield Static(_("Number format"), classes="label", markup=False)
                kinds = [(_("as the base is stored"), AS_STORED), *((kind, kind) for kind in QUANTIZATIONS)]
                yield Select(kinds, value=AS_STORED, allow_blank=False, id="kind", compact=True)
            with Horizontal(classes="setting", id="lora-field"):
                yield Static(_("Base and adapter"), classes="label", markup=False)
                ways = [(_("merged into one file"), "merged"), (_("each in a file of its own"), "apart")]
                yield Select(ways, value="merged", allow_blank=False, id="lora", compact=True)
            with Horizontal(classes="setting", id="name-field"):
                yield Static(_("Name in Ollama"), classes="label", markup=False)
                yield Input(placeholder=_("the run's folder"), id="name", compact=True)
            yield Static("", id="command", classes="path", markup=False)
            yield Static("", id="fetched", markup=False)
            yield Static("", id="found", markup=False)
        with Horizontal(id="buttons"):
            yield Button(_("Back"), id="back", compact=True)
            yield Button(_("Export"), id="main", variant="primary", compact=True)
        yield Foot(compact=True)

    def on_mount(self) -> None:
        self._show()
        self.query_one("#main").focus()

    def on_select_changed(self, event: Select.Changed) -> None:
        self._show()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.query_one("#main").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.action_export() if event.button.id == "main" else self.action_back()

    def wanted(self) -> Wanted:
        """What is asked for on the screen."""
        to, kind = str(self.query_one("#to", Select).value), str(self.query_one("#kind", Select).value)
        as_gguf = to in ("gguf", "ollama")
        return Wanted(
            to,
            self._out / EXPORTS,
            kind if as_gguf and kind != AS_STORED else None,
            name=(self.query_one("#name", Input).value.strip() or None) if to == "ollama" else None,
            lora=as_gguf and self.query_one("#lora", Select).value == "apart",
        )

    def _show(self) -> None:
        wanted = self.wanted()
        as_gguf = wanted.to in ("gguf", "ollama")
        self.query_one("#kind-field").display = as_gguf
        self.query_one("#lora-field").display = as_gguf
        self.query_one("#name-field").display = wanted.to == "ollama"
        command = ["lora-tui", "export", str(self._out), "--to", wanted.to]
        command += ["--quantize", wanted.quantize] if wanted.quantize else []
        command += ["--lora"] if wanted.lora else []
        command += ["--name", wanted.name] if wanted.name else []
        self.query_one("#command", Static).update(visible(shlex.join(command)))
        words = _("llama.cpp's converters are not here yet: {megabytes} MB are fetched first, once")
        fetched = self.query_one("#fetched", Static)
        fetched.update(words.format(megabytes=MEGABYTES))
        fetched.display = as_gguf and to_be_fetched()

    def action_export(self) -> None:
        if not self.at_work:
            self.at_work = True
            self.query_one("#main", Button).disabled = True
            self._say(_("at work"), "dim")
            self.ask("export", None, partial(self._carry_out, self.wanted()))

    def action_back(self) -> None:
        if self.at_work:
            self.notify(_("The export is at work; nothing half-written stays, so it is not cut short."), markup=False)
        else:
            self.dismiss()

    def _carry_out(self, wanted: Wanted) -> str:
        """Export, in a thread; what is said of it. Raises LoraTuiError."""
        _source, done = carry_out(self._out, None, None, wanted, self._aside)
        return "\n".join(done.lines)

    def _aside(self, text: str) -> None:
        self.post_message(Progressed(text))

    def on_progressed(self, event: Progressed) -> None:
        event.stop()
        if event.words:
            self._say(event.words, "dim")

    def on_found(self, event: Found) -> None:
        event.stop()
        self.at_work = False
        self.query_one("#main", Button).disabled = False
        if isinstance(event.value, LoraTuiError):
            self._say(told(event.value), "bold red")
        else:
            self._say(event.value, "")
        self.query_one("#back").focus()

    def _say(self, text: str, style: str) -> None:
        self.query_one("#found", Static).update(Text(visible(text, keep_lines=True), style=style))
