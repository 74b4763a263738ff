"""`lora-tui chat OUT`: the adapter's answer and the bare base's, as they come, or as JSON.

With --prompt or --row one question; else a conversation, in which each side remembers what it said itself. Lines from a pipe are
questions too.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.export.chat import SIDES, Chat, Messages, Sampling, Side, continued_words, open_chat, question, system_words
from engine.export.source import ExportSource, find_source
from engine.hardware import prepare_process
from engine.i18n import _
from tui.plain import visible
from tui.signals import heeded
from tui.standard import make_input_editable
from tui.streams import quiet_libraries

AGAIN, LEAVE = "/new", "/quit"


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    prompt: str | None
    row: int | None
    """Number of a row of the run's dataset, from 1, whose question is asked."""
    system: str | None
    """The system turn of what is asked; empty: none; None: the dataset's."""
    sampling: Sampling
    as_json: bool


def run_chat(out: str, checkpoint: str | None, model: str | None, asked: Asked) -> int:
    """Ask both sides; the exit code. Raises the engine's errors."""
    source = find_source(Path(out), checkpoint, model)
    wanted, tools = None, None
    question("", asked.system)  # that it is text is seen before anything is loaded
    said: Messages | None = question(asked.prompt) if asked.prompt is not None else None
    if asked.row is not None:
        from engine.export.samples import row_of

        row = row_of(source, asked.row)
        said, wanted, tools = row.said, row.wanted, row.tools
    prepare_process()
    quiet_libraries()
    with contextlib.ExitStack() as opened:
        with _tidied_up():
            chat = opened.enter_context(open_chat(source))
        if asked.system is not None:
            chat = replace(chat, system=asked.system)
        if chat.system and chat.continues(question("")):
            raise ConfigError(_("trained on plain text, which has no system turn"), fix=_("Leave --system out."))
        if chat.plain and not asked.as_json:
            sys.stdout.write(continued_words() + "\n\n")
        elif chat.system and asked.row is None and not asked.as_json:
            sys.stdout.write(visible(system_words(chat.system), keep_lines=True) + "\n\n")
        if said is None:
            _converse(chat, source, asked)
            return 0
        if asked.row is None:
            said = [*chat.beginning, *said]
        if not asked.as_json and asked.row is not None:
            title = _("row {row}").format(row=asked.row)
            sys.stdout.write(f"── {title}\n{visible(said[-1]['content'], keep_lines=True)}\n\n")
        answers = _both(chat, source, {side: list(said) for side in SIDES}, asked, tools)
    if asked.as_json:
        _print_json(said, chat, source, asked.sampling, answers, wanted)
    elif wanted is not None:
        title = _("in the dataset")
        sys.stdout.write(f"── {title}\n{visible(wanted, keep_lines=True)}\n")
    return 0


def _converse(chat: Chat, source: ExportSource, asked: Asked) -> None:
    """Questions until there are none; each side's own conversation goes on."""
    told = {side: list(chat.beginning) for side in SIDES}
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no text is refused alone, not all that follow it
    if sys.stdin.isatty():
        hint = _("Both sides answer each line. {again}: begin anew · Ctrl-C: end an answer · {leave} or Ctrl-D: leave")
        sys.stdout.write(hint.format(again=AGAIN, leave=LEAVE) + "\n")
    for line in _lines():
        if line == AGAIN:
            told = {side: list(chat.beginning) for side in SIDES}
            continue
        try:
            words = question(line)
            heard = {side: [*told[side], *words] for side in SIDES}
            with _interruptible() if sys.stdin.isatty() else contextlib.nullcontext():
                answers = _both(chat, source, heard, asked)
        except ConfigError as error:  # of this question: the next may be another
            from tui.headless import show_error

            show_error(error)
            continue
        except KeyboardInterrupt:  # neither remembers it: one may not have heard it
            if not asked.as_json:
                sys.stdout.write("\n" + _("(ended, and forgotten)") + "\n\n")
            continue
        for side in SIDES:
            told[side] = [*heard[side], {"role": "assistant", "content": answers[side]}]
        if asked.as_json:
            _print_json([*chat.beginning, *words], chat, source, asked.sampling, answers, None, indent=None)


@contextlib.contextmanager
def _tidied_up() -> Iterator[None]:
    """A signal ends the process by an exception here, so that what was copied for the loading goes with it; a second one at once."""

    def leave(code: int, _number: int, _frame: object) -> None:
        take_back()
        raise SystemExit(code)

    def take_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, partial(leave, code)) for _name, number, code in heeded()}
    try:
        yield
    finally:
        take_back()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt here, where it would end the process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """What is typed or piped in, line by line, until its end or LEAVE."""
    for line in map(str.strip, _typed() if sys.stdin.isatty() else sys.stdin):
        if line == LEAVE:
            return
        if line:
            yield line


def _typed() -> Iterator[str]:
    make_input_editable()
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")


def _both(
    chat: Chat, source: ExportSource, told: dict[Side, list[dict[str, Any]]], asked: Asked, tools: Any = None
) -> dict[Side, str]:
    answers: dict[Side, str] = {}
    for side in SIDES:
        if not asked.as_json:
            title = _("adapter ({name})").format(name=source.adapter.path.name) if side == "adapter" else _("bare base")
            sys.stdout.write(f"── {title}\n")
        answers[side] = chat.answer(told[side], side, asked.sampling, _silent if asked.as_json else _told, tools)
        if not asked.as_json:
            sys.stdout.write("\n\n")
    return answers


def _silent(_piece: str) -> None:
    pass


def _told(piece: str) -> None:
    sys.stdout.write(visible(piece, keep_lines=True))
    sys.stdout.flush()


def _print_json(
    said: Messages,
    chat: Chat,
    source: ExportSource,
    sampling: Sampling,
    answers: dict[Side, str],
    wanted: str | None,
    indent: int | None = 2,
) -> None:
    document: dict[str, Any] = {
        "schema": 1, "from": str(source.adapter.path), "prompt": said[-1]["content"],
        "system": next((turn["content"] for turn in said if turn["role"] == "system"), None),
        "chat_template": not chat.continues(said), "sampling": asdict(sampling),
    }  # fmt: skip
    document |= {side: answers[side] for side in SIDES}
    document |= {"wanted": wanted} if wanted is not None else {}
    sys.stdout.write(json.dumps(document, indent=indent, allow_nan=False) + "\n")
    sys.stdout.flush()
