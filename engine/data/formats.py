"""What rows mean: five shapes of dataset, recognised by their columns and brought to three.

A dataset is recognised once, from its columns and its first rows, with the reason said; then every row must be of that shape.
Alpaca and ShareGPT become conversations, so that everything behind this file knows only messages, prompt and completion, and
text. All bad rows are told together, with their numbers (from 1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from engine.data import normal, wanted
from engine.data.files import CHATS
from engine.data.normal import ROLES, SPEAKERS, Bad, Row
from engine.data.problems import Collected, Problem
from engine.data.read import Raw, Reading, columns_of, read_raw, renamed
from engine.data.texts import Numbered
from engine.data.unread import unread
from engine.errors import DatasetError
from engine.i18n import _, n_
from engine.named import with_rows

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("question", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("source", "target"),
)
TEXTS = ("text", "content")
ASKING = ("instruction", "prompt", "question", "query", "input")
"""Columns that make a column "content" an answer, and no text on its own."""
QUESTIONS = (*ASKING, "problem", "ask", "user", "human", "inputs")
ANSWERS = ("output", "response", "answer", "completion", "assistant", "bot", "solution", "target", "targets", "content")
"""What columns of rows that no format fits may be guessed to be by their names, in any case: a question, and the answer to it."""
MEANT = {
    "指令": "instruction", "问题": "instruction", "提问": "instruction", "输入": "input", "输出": "output", "回答": "output",
    "答案": "output", "回复": "output", "系统提示": "system", "文本": "text",
}  # fmt: skip
"""Chinese names of columns -> what they stand for, as --columns would say it."""

MESSAGE = '{"role": "user" | "assistant" | "system", "content": text}'
SHAPES = {
    "messages": '{"messages": [' + MESSAGE + ", ...]}",
    "sharegpt": '{"conversations": [{"from": "human" | "gpt" | "system", "value": text}, ...]}',
    "prompt_completion": '{"prompt": text, "completion": text}',
    "alpaca": '{"instruction": text, "input": text (may be missing), "output": text}',
    "text": '{"text": text}',
}


LOOKED_AT = 32
"""Rows behind the first whose columns and turns are looked at for what is not read."""
CONVERSATIONS = ("messages", "sharegpt", "alpaca")
"""Formats whose rows become turns, which a chat template writes."""
OWN = {
    "messages": "assistant",
    "sharegpt": "assistant",
    "alpaca": "assistant",
    "prompt_completion": "completion",
    "text": "all",
}
"""Format -> what --train-on auto trains on."""


class Rows:
    """A dataset's rows in one of three shapes: {"messages"}, {"prompt", "completion"} or {"text"}. Each iteration reads them anew, so
    a million of them take no room; a bad row is told at the end of the pass, with all others that are bad."""

    def __init__(
        self,
        raw: Raw,
        format: str,
        reason: str,
        normalise: Callable[[Row], Row],
        columns: dict[str, str] | None = None,
        unused: tuple[str, ...] = (),
    ) -> None:
        self.raw = raw
        self.columns = columns or {}
        """Column as it is in the dataset -> the name it stands for, where that is another."""
        self.name = raw.name
        self.format = format
        """messages | prompt_completion | text | alpaca | sharegpt: what was found, before it was brought to one of the three."""
        self.reason = reason
        self.unused = unused
        """What is said of columns of words that are not read."""
        self._normalise = normalise

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how they were read."""
        return (*self.raw.notes, *self._blank(), *self.unused)

    def _blank(self) -> tuple[str, ...]:
        if not self.raw.blank:
            return ()
        first, more = self.raw.where(self.raw.blank[0]), len(self.raw.blank) - 1
        if not more:
            return (_("{where}: nothing stands in this row; it is passed over").format(where=first),)
        words = n_(
            "{where}: nothing stands in this row and {count} more; both are passed over",
            "{where}: nothing stands in this row and {count} more; they are passed over",
            more,
        )
        return (words.format(where=first, count=more),)

    def __iter__(self) -> Iterator[Row]:
        return (row for _number, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """(number from 1, row). Raises DatasetError where a file cannot be read, BadRows behind the last row where some are bad."""
        bad = Collected(self.raw.skipped)
        rows = 0
        for number, row in self.raw:
            rows += 1
            try:
                normal = self._normalise(row)
            except Bad as error:
                fix = error.fix or _("Mend it, leave it out with --skip-rows {row}, or name another --format.").format(
                    row=with_rows(self.raw.skipped, str(number))
                )
                bad.add(Problem(number, error.code, "stops", f"{self.raw.where(number)}: {error}", fix))
                continue
            yield number, normal
        if bad.count:
            shape = _("A row of this format ({format}) is {shape}.").format(format=self.format, shape=SHAPES[self.format])
            raise bad.error(rows, shape)


class UnknownFormat(DatasetError):
    """Rows of none of the formats. `columns`: what --columns could say, going by the first row; None where that tells nothing."""

    def __init__(self, columns: str | None, title: str, detail: str, fix: str) -> None:
        super().__init__(title, detail, fix)
        self.columns = columns


def read_rows(dataset: str, reading: Reading | None = None, split: str | None = None) -> Rows:
    """The rows of a file, folder or hub id, or of one of its other splits, to be normalised while they are gone through. Raises
    DatasetError (exit 4) where it cannot be read, is empty, or its format is not recognised."""
    reading = reading or Reading()
    raw = read_raw(dataset, reading, split)
    columns = columns_of(reading)
    beginning = iter(raw)
    first = next(beginning, None)
    if first is None:
        words = _("{name}: every row is left out by --skip-rows") if raw.skipped else _("{name}: the dataset is empty")
        raise DatasetError(words.format(name=raw.name), fix=_("It must hold at least one row."))
    if missing := [column for column in columns if not _has(first[1], column)]:
        raise DatasetError(
            _("{name}: has no column {column}").format(name=raw.name, column=", ".join(map(repr, missing))),
            _("Found columns: {columns}.").format(columns=", ".join(map(str, first[1]))),
            _("--columns names a column of the rows, or of their turns."),
        )
    by = _("(by --columns)")
    if not columns and reading.format == "auto" and (columns := _meant(first[1])):
        by = f"({', '.join(f'{own} = {known}' for own, known in columns.items())})"
    example = renamed(first[1], columns)
    found, reason, as_found = recognise(raw.name, example, reading.format)
    as_said = as_found if found == "text" else _of_answers(as_found)
    any_words = "role" in columns.values()
    seen = _together([example, *(renamed(row, columns) for row in _next_rows(beginning))])
    unused = unread(raw.name, as_said, _roles_known(seen) if any_words else seen, columns,
                    pair_of(example) if found == "prompt_completion" else None)  # fmt: skip
    normalise = (lambda row: as_said(_roles_known(row))) if any_words else as_said
    if not columns:
        return Rows(raw, found, reason, normalise, unused=unused)
    return Rows(raw, found, f"{reason} {by}", lambda row: normalise(renamed(row, columns)), columns, unused)


def _next_rows(rows: Numbered) -> list[Row]:
    """Some rows more, up to one that is damaged: that is told when they are gone through."""
    found: list[Row] = []
    with contextlib.suppress(DatasetError):
        found.extend(row for _number, row in islice(rows, LOOKED_AT))
    return found


def _together(rows: Iterable[Row]) -> Row:
    """One row with the columns that any of `rows` has, each with what first stands in it, and the turns of all."""
    whole: Row = {}
    for row in rows:
        for name, value in row.items():
            held = whole.get(name)
            if name in CHATS and isinstance(held, list) and isinstance(value, list):
                whole[name] = held + value
            elif held in (None, "", []):
                whole[name] = value
    return whole


def _of_answers(normalise: Callable[[Row], Row]) -> Callable[[Row], Row]:
    """`normalise` for rows that hold an answer, which must be one to learn, from text alone."""

    def checked(row: Row) -> Row:
        wanted.answer_wanted(row)
        wanted.only_text(row)
        return normalise(row)

    return checked


def _roles_known(row: Row) -> Row:
    """`row` with the speakers of its turns as roles: a part that --columns calls the role holds whatever words it had."""
    return {name: [_role_known(turn) for turn in value] if isinstance(value, list) else value for name, value in row.items()}


def _role_known(turn: Any) -> Any:
    role = turn.get("role") if isinstance(turn, dict) else None
    return {**turn, "role": SPEAKERS[role.lower()]} if isinstance(role, str) and role.lower() in SPEAKERS else turn


def _meant(first: Row) -> dict[str, str]:
    """Column -> what it stands for, where Chinese names make up a row and no other name does; else nothing."""
    if not {*CHATS, *TEXTS, "instruction", *(name for pair in PAIRS for name in pair)}.isdisjoint(first):
        return {}
    found = {own: MEANT[own] for own in first if own in MEANT}
    if "instruction" not in found.values():
        found = {own: "instruction" if known == "input" else known for own, known in found.items()}
    meant = set(found.values())
    return found if len(meant) == len(found) and ({"instruction", "output"} <= meant or "text" in meant) else {}


def _has(row: Row, column: str) -> bool:
    turns = (turn for value in row.values() if isinstance(value, list) for turn in value if isinstance(turn, dict))
    return column in row or any(column in turn for turn in turns)


def recognise(name: str, first: Row, asked: str = "auto") -> tuple[str, str, Callable[[Row], Row]]:
    """(format, why, normaliser of one row), by the first row of the dataset `name`. Raises DatasetError where no format fits, with the
    nearest one's requirement."""
    columns = set(first)
    chat = next((name for name in CHATS if name in columns), None)
    pair = pair_of(first)
    output = next((name for name in ("output", "response") if name in columns), None)
    text = next((name for name in TEXTS if name in columns), None)
    if text == "content" and asked == "auto" and not columns.isdisjoint(ASKING):
        text = None  # of these it is the answer
    turn = next((parts for parts in (("role", "content"), ("from", "value")) if set(parts) <= columns), None)
    if turn is None and "text" in columns and str(first.get("role")).lower() in (*SPEAKERS, *ROLES, "prompter"):
        turn = ("role", "text")  # as OpenAssistant's messages are
    if asked == "auto" and turn is not None and text == turn[1]:
        text = None
    found = asked if asked != "auto" else _found(first, chat, pair, output, text)
    if found == "messages" and chat:
        return found, _in_turns(chat, first[chat]), lambda row: normal.messages(row, chat)
    if found == "sharegpt" and chat:
        return (
            found,
            _('the column "{name}" holds turns with from and value').format(name=chat),
            lambda row: normal.sharegpt(row, chat),
        )
    if found == "alpaca" and "instruction" in columns and output:
        return (
            found,
            _('there are columns "instruction" and "{name}"').format(name=output),
            lambda row: normal.alpaca(row, output),
        )
    if found == "prompt_completion" and pair:
        return (
            found,
            _('there are columns "{left}" and "{right}"').format(left=pair[0], right=pair[1]),
            lambda row: normal.pair(row, *pair),
        )
    if found == "text" and text:
        return found, _('there is a column "{name}"').format(name=text), lambda row: {"text": normal.some_text(row, text)}
    raise _not_recognised(name, first, asked, turn)


def _not_recognised(name: str, first: Row, asked: str, turn: tuple[str, str] | None) -> DatasetError:
    """The error for rows that no format fits, with what comes nearest. `turn`: the columns that make a row one turn, if they do."""
    shown = ", ".join(list(map(str, first))[:12]) or _("none")
    if asked != "auto":
        return DatasetError(
            _("{name}: has not the columns of {format}").format(name=name, format=asked),
            _("Found columns: {columns}. A row must be {shape}.").format(columns=shown, shape=SHAPES[asked]),
        )
    if not {"rejected", "non_preferred_output"}.isdisjoint(first):
        return DatasetError(
            _("{name}: is a preference dataset (chosen, rejected)").format(name=name),
            _("Fine-tuning learns from one answer a row."),
            _("Keep the chosen answers as {shape}.").format(shape=SHAPES["messages"]),
        )
    if turn is not None:
        return DatasetError(
            _('{name}: each row is one turn ("{role}", "{content}"), not a conversation').format(
                name=name, role=turn[0], content=turn[1]
            ),
            _("What was said before an answer stands in other rows, so none of them tells what is to be learned."),
            _(
                "Put the turns of a conversation into one row: {shape}. To learn every word as plain text, the users' too: {flag}."
            ).format(shape=SHAPES["messages"], flag="--format text" if turn[1] in TEXTS else f"--columns text={turn[1]}"),
        )
    columns_flag = _could_be(first)
    return UnknownFormat(
        columns_flag,
        _("{name}: its format is not recognised").format(name=name),
        _("Found columns: {columns}.").format(columns=shown),
        _("Say which columns they are with --columns, for example {columns}; or make the rows one of: {shapes}").format(
            columns=columns_flag or "instruction=A,output=B", shapes="; ".join(SHAPES.values())
        ),
    )


def pair_of(first: Row) -> tuple[str, str] | None:
    """The columns of a row that are a prompt and its completion, the first that are there."""
    return next((pair for pair in PAIRS if {*pair} <= {*first}), None)


def _in_turns(column: str, turns: Any) -> str:
    """Why rows with this column are conversations."""
    if normal.spoken(turns) == turns or not isinstance(turns, list):
        return _('the column "{name}" holds turns with role and content').format(name=column)
    if isinstance(turns[0], str):
        return _('the column "{name}" holds texts of the user and the assistant in turn').format(name=column)
    return _('the column "{name}" holds pairs of question and answer').format(name=column)


def _could_be(first: Row) -> str | None:
    """What --columns could say of rows like this one: its first list of turns; else the columns of words that are called so, or the
    first two, are a question and its answer; a single column of words is plain text."""
    for name, value in first.items():
        if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
            return _turns_could_be(str(name), value)
        if isinstance(value, list) and len(value) > 1 and all(isinstance(turn, str) for turn in value):
            return f"messages={name}"
    words = [str(name) for name, value in first.items() if isinstance(value, str) and not value.strip().isdigit()]
    asked, answered = (_called(names, words) for names in (QUESTIONS, ANSWERS))
    if asked and answered:
        return f"instruction={asked},output={answered}"
    named = [*words, *(str(name) for name in first if str(name) not in words)]
    if len(named) > 1:
        return f"instruction={named[0]},output={named[1]}"
    return f"text={named[0]}" if words else None


def _called(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """The first of `columns` that has one of `names`, in any case; the first name that is there."""
    return next((column for name in names for column in columns if column.lower() == name), None)


def _turns_could_be(column: str, turns: list[Row]) -> str:
    """The same of the column that holds `turns`: who speaks is the part whose words are few and known, what is said the longest."""
    parts = [name for name in turns[0] if all(isinstance(turn.get(name), str) for turn in turns)]
    if {"from", "value"} <= set(parts) or len(parts) < 2:
        return f"messages={column}"
    said = {name: [turn[name] for turn in turns] for name in parts}
    role = max(
        parts,
        key=lambda name: (name == "role", {word.lower() for word in said[name]} <= {*SPEAKERS, *ROLES}, -len({*said[name]})),
    )
    content = max((name for name in parts if name != role), key=lambda name: (name == "content", sum(map(len, said[name]))))
    named = [f"{known}={own}" for known, own in (("role", role), ("content", content)) if known != own]
    return ",".join([f"messages={column}", *named])


def _found(first: Row, chat: str | None, pair: tuple[str, str] | None, output: str | None, text: str | None) -> str | None:
    if chat is not None:
        turns = normal.spoken(first[chat])
        head = turns[0] if isinstance(turns, list) and turns else {}
        return "sharegpt" if isinstance(head, dict) and "from" in head and "role" not in head else "messages"
    if "instruction" in first and output is not None:
        return "alpaca"
    if pair is not None:
        return "prompt_completion"
    return "text" if text is not None else None
