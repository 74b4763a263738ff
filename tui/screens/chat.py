"""After the result: talk to the adapter, with the bare base beside it on the same question.

One thread holds the model and answers; the screen only sends it questions and shows the pieces that come. An answer that is under way
can be ended at its next token, and leaving ends it too.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Paste
from textual.widgets import Input, Static

from engine.errors import LoraTuiError
from engine.export.chat import SIDES, Chat, Messages, Sampling, Side, continued_words, open_chat, question, system_words
from engine.export.samples import TEXT, AskedRow, row_after
from engine.export.source import ExportSource, find_source
from engine.i18n import _, with_detail
from tui.i18n import N_
from tui.keys import bound
from tui.messages import Progressed, Said
from tui.plain import visible
from tui.screens.base import WizardScreen
from tui.widgets.foot import Foot
from tui.widgets.growing import Growing


class _Left(BaseException):
    """The person has left in the middle of an answer. No Exception: what catches those must let it through."""


class _Ended(BaseException):
    """The person has had enough of an answer. No Exception: as `_Left`."""


@dataclass(frozen=True)
class Asked:
    """A question."""

    number: int
    """From 1, in the order of asking."""

    words: str | None
    """None asks what the next row of the dataset asks."""
    sampling: Sampling
    """How its answers are drawn."""
    conversation: int
    """Which it belongs to; another one has forgotten what was said before."""


LINE_END = "⏎"
"""What stands for the end of a line in the one line to ask with."""


class Question(Input):
    """The line to ask with; up and down bring back what was asked before, as in a shell."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "turn_to(-1)", show=False),
        Binding("down", "turn_to(1)", show=False),
    ]

    def __init__(self, placeholder: str, id: str) -> None:
        super().__init__(placeholder=placeholder, id=id)
        self._asked: list[str] = []
        self._at = 0
        """Which of them stands in the line; one further: what is being typed."""
        self._draft = ""

    def on_paste(self, event: Paste) -> None:
        """All lines of what is pasted are the question: Textual's field takes the first one and drops the others without a word."""
        event.stop()
        event.prevent_default()
        self.replace(LINE_END.join(event.text.strip().splitlines()), *self.selection)

    def keep(self, words: str) -> None:
        """`words` were asked, and can be brought back."""
        if self._asked[-1:] != [words]:
            self._asked.append(words)
        self._at, self._draft = len(self._asked), ""

    def action_turn_to(self, way: int) -> None:
        """The question before or after the one that stands there."""
        at = self._at + way
        if not 0 <= at <= len(self._asked):
            raise SkipAction
        if self._at == len(self._asked):
            self._draft = self.value
        self._at = at
        self.value = [*self._asked, self._draft][at]
        self.cursor_position = len(self.value)


class ChatScreen(WizardScreen):
    """Both sides and a line to ask with."""

    BINDINGS: ClassVar[list[BindingType]] = [
        bound("back", "back", N_("Back")),
        bound("ask_row", "row", N_("Ask a row of the dataset"), priority=True),
        bound("begin_anew", "again", N_("Begin anew"), priority=True),
        bound("sampling", "sampling", N_("Sampling"), priority=True),
        bound("help", "help", N_("Help")),
    ]
    SCROLLED: ClassVar[str] = "Growing"
    HELP_TEXT: ClassVar[str] = N_(
        "What you ask goes to the trained adapter and to the bare base, with the same settings: where the answers differ is what was "
        "learned. Up brings back what you asked before; Esc ends an answer that is too long, and a second Esc leaves."
        "\n\nctrl+r asks what the next row of the dataset asks, and shows the row's own answer too. ctrl+l makes both sides "
        "forget what was said. ctrl+t shows how answers are drawn; with temperature 0 the likeliest token is always taken."
    )

    awaited = True  # for its copy of the adapter is taken away by the thread that has it

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out
        self._asked: queue.Queue[Asked | None] = queue.Queue()
        """None: leave."""
        self._left = False
        self._talks = True
        """Not where there is nothing to talk to: then nothing can be asked, and why stays to be read."""
        self._row = 0
        """The last one that was asked; the model's thread counts."""
        self._conversation = 0
        self._number = self._answered = self._given_up = 0
        """Numbers of questions: of the last one that was asked, of the last one that the model's thread is done with, and of the last
        one that nobody waits for any more."""
        self._shown = {side: Text() for side in SIDES}
        self._titles: dict[str, str] = {}
        """What the settings are called on the screen."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="sides"):
            for side, title in zip(SIDES, (_("the trained adapter"), _("the bare base")), strict=True):
                with Vertical(classes="speaker"):
                    yield Static(title, classes="speaker-name", markup=False)
                    with Growing(id=f"{side}-scroll", can_focus=False):
                        yield Static("", id=side, markup=False)
        with Horizontal(id="sampling"):
            for name, title, value in (
                ("temperature", _("temperature"), Sampling.temperature),
                ("top_p", _("top-p"), Sampling.top_p),
                ("seed", _("seed"), Sampling.seed),
                ("max_new_tokens", _("tokens at most"), Sampling.max_new_tokens),
            ):
                self._titles[name] = title
                yield Static(title, markup=False)
                yield Input(f"{value:g}", id=name, compact=True)
        yield Static(_("loading the model"), id="chat-state", markup=False)
        yield Question(placeholder=_("Ask something"), id="question")
        yield Foot(compact=True)

    def on_mount(self) -> None:
        self.query_one("#question").focus()
        self._answer_all()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.input.id != "question":
            if self._sampling() is not None:
                self.query_one("#question").focus()
        elif (asked := event.value.strip()) and (sampling := self._sampling()) is not None:
            event.input.value = ""
            self.query_one(Question).keep(asked)
            self._ask(asked.replace(LINE_END, "\n"), sampling)

    def _ask(self, words: str | None, sampling: Sampling) -> None:
        self._number += 1
        self._asked.put(Asked(self._number, words, sampling, self._conversation))

    def action_row(self) -> None:
        self.after_typing(self._ask_row)

    def _ask_row(self) -> None:
        if self._talks and (sampling := self._sampling()) is not None:
            self._ask(None, sampling)

    def action_sampling(self) -> None:
        """Show or hide the settings of how answers are drawn: the same for both sides, the seed too."""
        row = self.query_one("#sampling")
        row.display = not row.display
        self.query_one("#temperature" if row.display else "#question").focus()

    def _sampling(self) -> Sampling | None:
        """The settings as they stand; None where one cannot be used: it is named, and the cursor is in it, wherever it was hidden."""
        usable = Sampling()
        for one in self.query("#sampling Input").results(Input):
            name = str(one.id)
            try:
                value: Any = float(one.value)
                usable = replace(usable, **{name: value if isinstance(getattr(usable, name), float) else int(value)})
            except (ValueError, OverflowError):
                self._refuse(one, _("{value!r} is no number").format(value=one.value))
                return None
            except LoraTuiError as error:
                self._refuse(one, with_detail(error.title, error.fix))
                return None
        return usable

    def _refuse(self, field: Input, reason: str) -> None:
        self.query_one("#sampling").display = True
        field.focus()
        self._state(f"{self._titles[str(field.id)]}: {reason}")

    def action_again(self) -> None:
        """Both sides forget what was said, and what is being said is ended."""
        self._conversation += 1
        self._given_up = self._number
        for side in SIDES:
            self._shown[side] = Text()
            self.query_one(f"#{side}", Static).update("")

    def action_back(self) -> None:
        """End what is being answered; where nothing is, or it was ended already, leave."""
        if self._talks and max(self._answered, self._given_up) < self._number:
            self._given_up = self._number
            self._state(_("being ended"))
        else:
            self.dismiss()

    def on_unmount(self) -> None:
        """Left, or the app ends: the thread that holds the model must not keep the process."""
        self._left = True
        self._asked.put(None)

    # -- in the thread that holds the model ------------------------------------------------------------------------------

    @work(thread=True, name="chat")
    def _answer_all(self) -> None:
        """Its only ways out are messages."""
        try:
            failed = self.tried("chat", self._converse)
        except _Left:
            return
        if isinstance(failed, LoraTuiError):
            self._talks = False
            self.post_message(Progressed(" · ".join(part for part in (failed.title, failed.detail, failed.fix) if part)))

    def _converse(self) -> None:
        """Answer until the person leaves. Raises LoraTuiError where there is nothing to talk to."""
        source = find_source(self._out)
        with open_chat(source) as chat:
            ready = _("ready · {name}").format(name=source.adapter.path.name)
            how = continued_words() if chat.plain else system_words(chat.system) if chat.system else ""
            self.post_message(Progressed(" · ".join(part for part in (ready, how) if part)))
            conversation, said = 0, _nothing_said()
            while (asked := self._asked.get()) is not None:
                if asked.conversation != conversation:
                    conversation, said = asked.conversation, _nothing_said()
                try:
                    # What one question cannot have, memory for a long answer perhaps, the next may.
                    failed = self.tried("answer", partial(self._answer, chat, source, asked, said))
                    if isinstance(failed, LoraTuiError):
                        self.post_message(Progressed(failed.title))
                except _Ended:
                    self.post_message(Progressed(ready))
                self._answered = asked.number

    def _answer(self, chat: Chat, source: ExportSource, asked: Asked, said: dict[Side, list[dict[str, Any]]]) -> None:
        """Answer on both sides, and keep it in `said`. Raises LoraTuiError, or _Ended where nobody waits for it: neither side
        remembers the question then, since one may not have heard it."""
        if asked.number <= self._given_up:
            raise _Ended
        sampling = asked.sampling
        if asked.words is None:
            self._row, row = row_after(source, self._row)
        else:
            row = AskedRow(question(asked.words), "")
        words, wanted = row.said, row.wanted
        self.post_message(Progressed(" · ".join((_("answering"), _("Esc ends it")))))
        answered: dict[Side, list[dict[str, Any]]] = {}
        for side in SIDES:
            before: Messages = [] if asked.words is None else said[side] or chat.beginning
            heard = [*before, *words]
            tell = partial(self._piece, asked, side)
            tell(f"> {words[-1]['content']}\n", "bold")
            try:
                answer = chat.answer(heard, side, sampling, tell, row.tools)
            except _Ended:
                self.post_message(Said(asked.conversation, side, "\n" + _("(ended, and forgotten)") + "\n\n", "dim"))
                raise
            # A row of plain text is no part of a conversation, and tools are a row's own.
            answered[side] = (
                [] if words[-1]["role"] == TEXT or row.tools else [*heard, {"role": "assistant", "content": answer}]
            )
            there = "(" + _("in the dataset") + f": {wanted})\n" if wanted else ""
            tell(f"\n{there}\n", "dim")
        said.update(answered)
        drawn = _("the likeliest tokens") if not sampling.temperature else _(
            "temperature {temperature:g}, top-p {top_p:g}, seed {seed}, on both sides").format(
                temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)  # fmt: skip
        self.post_message(Progressed(_("ready · {drawn}").format(drawn=drawn)))

    def _piece(self, asked: Asked, side: Side, piece: str, style: str = "") -> None:
        if self._left:
            raise _Left
        if asked.number <= self._given_up:
            raise _Ended
        self.post_message(Said(asked.conversation, side, piece, style))

    # -- in the app's thread ---------------------------------------------------------------------------------------------

    def on_progressed(self, event: Progressed) -> None:
        event.stop()
        self._state(event.words)
        self.query_one("#question").disabled = not self._talks

    def on_said(self, event: Said) -> None:
        event.stop()
        if event.asked == self._conversation and self.is_mounted:
            self._shown[event.side].append(visible(event.words, keep_lines=True), style=event.style)
            self.query_one(f"#{event.side}", Static).update(self._shown[event.side])
            self.query_one(f"#{event.side}-scroll", Growing).grown()

    def _state(self, words: str) -> None:
        if self.is_mounted:
            self.query_one("#chat-state", Static).update(visible(words))


def _nothing_said() -> dict[Side, list[dict[str, Any]]]:
    return {side: [] for side in SIDES}
