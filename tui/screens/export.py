"""After the result: the adapter for other programs, as `lora-tui export` does it, with the checks' findings on the screen."""

from __future__ import annotations

import shlex
import threading
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Select, Static

from engine.errors import Cancelled, LoraTuiError
from engine.export.llama_cpp import MEGABYTES, QUANTIZATIONS, to_be_fetched
from engine.export.ollama import absence, model_name
from engine.export.place import EXPORTS
from engine.i18n import _
from engine.paths import no_flag
from tui.export import NameTaken, Told, Wanted, carry_out
from tui.fields import told
from tui.i18n import N_
from tui.keys import bound
from tui.messages import Found, Progressed
from tui.plain import visible
from tui.screens.base import WizardScreen
from tui.widgets.buttons import Buttons
from tui.widgets.foot import Foot

AS_STORED = "as stored"


class ExportScreen(WizardScreen):
    """What for, in which number format, under which name."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bound("next", "finish", N_("Export"), priority=True),
        bound("back", "back", N_("Back")),
        bound("copy", "copy", N_("Copy command")),
        bound("help", "help", N_("Help")),
    ]
    HELP_TEXT: ClassVar[str] = N_(
        "Ollama and llama.cpp take a GGUF file, transformers and vLLM base and adapter merged into one model, PEFT the adapter "
        "alone. What was written is read back and checked before it counts.\n\nThe number format says how many bits a weight has in "
        "the GGUF file: q8_0 is half of f16 and loses hardly anything, q4_k_m a third and loses a little. The command below the "
        "fields does the same without the wizard; y copies it and, after an export for Ollama, the command that makes it known "
        "there. What is exported lies in the folder export of the run; nothing there is written over."
    )

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out
        self._stop = threading.Event()
        """Set: the fetching of the converters is to end."""
        self._wanted: Wanted | None = None
        """What the export that is at work was asked for."""
        self._command = ""
        """What y copies."""
        self._taken: str | None = None
        """The name that Ollama was found to have already; None: it has none that was asked for."""
        self._absence = ""
        """Why nothing can be made known to Ollama now."""

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
                yield Input(placeholder=model_name(self._out, None), id="name", compact=True)
            with Horizontal(classes="setting", id="taken-field"):
                yield Static(_("A model of that name"), classes="label", markup=False)
                yield Select(
                    [(_("stays"), "stays"), (_("is replaced"), "replaced")],
                    value="stays", allow_blank=False, id="taken", compact=True,
                )  # fmt: skip
            yield Static("", id="absence", markup=False)
            yield Static("", id="command", classes="path", markup=False)
            yield Static("", id="fetched", markup=False)
            yield Static("", id="found", markup=False)
        with Buttons(id="buttons"):
            yield Button(_("Back"), id="back", compact=True)
            yield Button(_("Export"), id="main", variant="primary", compact=True)
        yield Foot(compact=True)

    def on_mount(self) -> None:
        self._show()
        self.query_one("#main").focus()
        self.ask("ollama", None, absence)

    def on_unmount(self) -> None:
        """Left, or the app ends: what pip fetches must not keep the process."""
        self._stop.set()

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
        name = self.query_one("#name", Input).value.strip()
        to, kind = str(self.query_one("#to", Select).value), str(self.query_one("#kind", Select).value)
        as_gguf = to in ("gguf", "ollama")
        return Wanted(
            to,
            self._out / EXPORTS,
            kind if as_gguf and kind != AS_STORED else None,
            name=(name or None) if to == "ollama" else None,
            replace=to == "ollama" and name == self._taken and self.query_one("#taken", Select).value == "replaced",
            lora=as_gguf and self.query_one("#lora", Select).value == "apart",
        )

    def _show(self) -> None:
        wanted = self.wanted()
        as_gguf = wanted.to in ("gguf", "ollama")
        self.query_one("#kind-field").display = as_gguf
        self.query_one("#lora-field").display = as_gguf
        self.query_one("#name-field").display = wanted.to == "ollama"
        self.query_one("#taken-field").display = wanted.to == "ollama" and (wanted.name or "") == self._taken
        command = ["lora-tui", "export", no_flag(self._out), "--to", wanted.to]
        command += ["--quantize", wanted.quantize] if wanted.quantize else []
        command += ["--lora"] if wanted.lora else []
        command += ["--name", wanted.name] if wanted.name else []
        command += ["--replace"] if wanted.replace else []
        self._command = shlex.join(command)
        self.query_one("#command", Static).update(visible(self._command))
        self.query_one("#absence", Static).update(visible(self._absence))
        self.query_one("#absence").display = wanted.to == "ollama" and bool(self._absence)
        self._show_fetched()

    def _show_fetched(self) -> None:
        words = _("llama.cpp's converters are not here yet: {megabytes} MB are fetched first, once").format(
            megabytes=MEGABYTES
        )
        fetched = self.query_one("#fetched", Static)
        fetched.update(" · ".join((words, _("Esc ends the download"))) if self.at_work else words)
        fetched.display = self._fetches(self._wanted if self.at_work and self._wanted is not None else self.wanted())

    def action_finish(self) -> None:
        """The key for it."""
        self.after_typing(self.action_export)

    def action_export(self) -> None:
        if not self.at_work:
            self.at_work = True
            self.query_one("#main", Button).disabled = True
            self._say(_("at work"), "dim")
            self._stop.clear()
            self._wanted = self.wanted()
            self._show_fetched()
            self.ask("export", None, partial(self._carry_out, self._wanted))

    def _fetches(self, wanted: Wanted) -> bool:
        """Whether the converters are to be fetched for it first: until they are here, nothing of the export itself exists."""
        return wanted.to in ("gguf", "ollama") and to_be_fetched()

    def action_copy(self) -> None:
        self.owner.copy_to_clipboard(self._command)
        self.notify(_("The command is in the clipboard."), markup=False)

    def action_back(self) -> None:
        if self.at_work and self._wanted is not None and self._fetches(self._wanted):
            self._stop.set()
            self._say(_("being cancelled"), "dim")
        elif self.at_work:
            self.notify(_("The export is at work; nothing half-written stays, so it is not cut short."), markup=False)
        else:
            self.dismiss()

    def _carry_out(self, wanted: Wanted) -> Told:
        """Export, in a thread; what is said of it. Raises LoraTuiError."""
        return carry_out(self._out, None, None, wanted, self._aside, self._stop.is_set)[1]

    def _aside(self, text: str) -> None:
        self.post_message(Progressed(text))

    def on_progressed(self, event: Progressed) -> None:
        event.stop()
        if event.words:
            self._say(event.words, "dim")
            self._show_fetched()

    def on_found(self, event: Found) -> None:
        event.stop()
        if event.what == "ollama":
            self._absence = event.value if isinstance(event.value, str) else ""
            self._show()
            return
        self.at_work = False
        taken = isinstance(event.value, NameTaken)
        if taken and self._wanted is not None:
            self._taken = self._wanted.name or ""
        self._show()  # the converters are here now
        self.query_one("#main", Button).disabled = False
        if isinstance(event.value, LoraTuiError):
            fields = {"--name": _("Name in Ollama"), "--replace": _("A model of that name")}
            self._say(told(event.value, fields), "bold yellow" if isinstance(event.value, Cancelled) else "bold red")
        else:
            self._say("\n".join(event.value.lines), "")
            self._command = event.value.fields.get("command", self._command)
        self.query_one("#taken" if taken else "#back").focus()

    def _say(self, text: str, style: str) -> None:
        self.query_one("#found", Static).update(Text(visible(text, keep_lines=True), style=style))
