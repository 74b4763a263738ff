"""A few rows as the run was trained on them, by which an exported form is held against the trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.config import RunConfig
from engine.data.formats import read_rows
from engine.data.masks import ends_itself, render
from engine.data.normal import THOUGHT_END, THOUGHTS
from engine.data.read import Reading
from engine.data.rendering import rendered
from engine.data.tokens import IGNORED, end_marks, tokenize
from engine.errors import ConfigError, LoraTuiError
from engine.export.source import ExportSource
from engine.i18n import _

LOOKED_AT = 64
"""Rows of the dataset that are read."""
TAKEN = 4
"""Of these, the shortest."""
MAX_TOKENS = 256
ASKED = ("Hello", "What is 12 + 30?", "用一句话介绍你自己。", "Write one line of Python that prints 1 to 3.")
"""Asked of a run whose dataset is gone."""

TEXT = "text"
"""The role of what is no turn: to be continued as it stands."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """One row."""

    text: str
    """With the chat template applied."""
    add_special_tokens: bool
    """Whether the tokenizer adds BOS and the like to the text; templates write them themselves."""
    input_ids: Sequence[int]
    """As it is trained on, at most MAX_TOKENS."""
    labels: Sequence[int]
    """-100 where the loss looks away."""
    messages: Messages | None
    """None: not a chat."""
    asked: str = ""
    """Where it is not a chat: what of it is given to be continued."""


@dataclass(frozen=True)
class Manner:
    """How the rows speak that a run was trained on, as far as they were looked at."""

    plain: bool = False
    """Whether all are plain text in which no chat template has left its marks."""
    thinks: bool = False
    """Whether some have thoughts before answers."""
    system: str | None = None
    """The system turn that all share."""


@dataclass(frozen=True)
class Samples:
    """What an export is held against."""

    rows: tuple[Sample, ...]
    of_dataset: bool
    """False: fixed questions stand in."""
    manner: Manner
    tools: bool = False
    """Whether rows looked at offer tools or call them."""
    long: bool = False
    """Whether fixed questions stand in because no row looked at has something trained among its first MAX_TOKENS tokens. Else the
    dataset is gone or has changed its form."""


def take_samples(source: ExportSource, tokenizer: Any) -> Samples:
    """Rows of the run's dataset, else fixed ones."""
    if source.config.dataset is not None:
        try:
            chosen = _looked_at(source.config)
            seen = [row for _number, row in chosen]
            manner, tools = _manner(seen, tokenizer), any(map(_has_tools, seen))
            made = _samples(chosen, tokenizer, source.config.train_on)
            return Samples(made or _fixed(tokenizer, manner.plain), bool(made), manner, tools, not made)
        except LoraTuiError:
            pass  # gone or not what it was: the export does not depend on it
    return Samples(_fixed(tokenizer, False), False, Manner())


def trained_as(source: ExportSource, tokenizer: Any) -> Manner:
    """What the first rows of the run of `source` show. A dataset that is gone shows nothing."""
    try:
        seen = [row for _number, row in _looked_at(source.config)] if source.config.dataset is not None else []
    except LoraTuiError:
        seen = []
    return _manner(seen, tokenizer)


def _manner(rows: list[dict[str, Any]], tokenizer: Any) -> Manner:
    return Manner(_plain(rows, tokenizer), any(map(_thinks, rows)), _shared_system(rows))


@dataclass(frozen=True)
class AskedRow:
    """A row of the dataset as a question."""

    said: Messages
    """The conversation up to its last answer; or, as one turn of TEXT, a prompt or the first half of a text."""
    wanted: str
    """Its answer; tool calls as JSON, one a line."""
    tools: Any = None
    """What it offers, as the chat template takes it."""


def row_of(source: ExportSource, number: int) -> AskedRow:
    """Row `number` of the dataset. Raises ConfigError where there is no such row, DatasetError where the dataset cannot be read."""
    found = next((row for at, row in _numbered(source) if at == number), None)
    if found is None:
        raise ConfigError(_("the dataset has no row {row}").format(row=number), fix=_("Rows are counted from 1."))
    return _asked(found)


def row_after(source: ExportSource, number: int) -> tuple[int, AskedRow]:
    """The next row that is read behind row `number`, with its own number; after the last one the first. Raises as `row_of`."""
    rows = _numbered(source)
    first = next(rows)
    at, row = first if first[0] > number else next((one for one in rows if one[0] > number), first)
    return at, _asked(row)


def _numbered(source: ExportSource) -> Iterator[tuple[int, dict[str, Any]]]:
    if source.config.dataset is None:
        raise ConfigError(_("nothing says which dataset this run was trained on"), fix=_("Ask with --prompt."))
    return iter(read_rows(source.config.dataset, Reading.of(source.config)).numbered())


def _asked(row: dict[str, Any]) -> AskedRow:
    messages = _messages(row)
    if messages is None:
        asked, wanted = _parted(row)
        return AskedRow([{"role": TEXT, "content": asked}], wanted)
    last = max((place for place, turn in enumerate(messages) if turn["role"] == "assistant"), default=len(messages))
    return AskedRow(messages[:last], _said(messages[last]) if last < len(messages) else "", row.get("tools"))


def _said(turn: dict[str, Any]) -> str:
    calls = [json.dumps(call, ensure_ascii=False) for call in turn.get("tool_calls") or ()]
    return "\n".join(part for part in (turn["content"], *calls) if part)


def _samples(rows: list[tuple[int, dict[str, Any]]], tokenizer: Any, train_on: str) -> tuple[Sample, ...]:
    made = []
    for number, row in rows:
        whole = render(row, tokenizer, train_on, number)
        table = tokenize([(number, row)], tokenizer, train_on, 1 << 30)
        tokens = table.row(0)
        made.append(
            Sample(whole.text, whole.add_special_tokens, tokens["input_ids"][:MAX_TOKENS], tokens["labels"][:MAX_TOKENS],
                   _messages(row), _parted(row)[0] if _is_plain(row) else "")
        )  # fmt: skip
    usable = [one for one in made if any(label != IGNORED for label in one.labels[1:])]
    return tuple(sorted(usable, key=lambda one: len(one.input_ids))[:TAKEN])


def _looked_at(config: RunConfig) -> list[tuple[int, dict[str, Any]]]:
    """The first rows of the dataset, with their numbers. Raises DatasetError."""
    assert config.dataset is not None
    return list(islice(read_rows(config.dataset, Reading.of(config)).numbered(), LOOKED_AT))


def _is_plain(row: dict[str, Any]) -> bool:
    """Whether a row is trained on as it stands: the chat template is for turns, and never put around plain text."""
    return "text" in row or isinstance(row.get("prompt"), str)


def _plain(rows: list[dict[str, Any]], tokenizer: Any) -> bool:
    """`Manner.plain`. Text into which somebody wrote the template's own marks was trained with the template after all."""
    marks = end_marks(tokenizer)
    return bool(rows) and all(
        _is_plain(row) and marks.isdisjoint(tokenizer("".join(_parted(row)), verbose=False)["input_ids"][1:-1])
        for row in rows
    )


def _has_tools(row: dict[str, Any]) -> bool:
    return bool(row.get("tools")) or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in _messages(row) or ())


def _thinks(row: dict[str, Any]) -> bool:
    answers = [turn for turn in _messages(row) or () if turn["role"] == "assistant"]
    return any(THOUGHT_END in turn["content"] or any(turn.get(name) for name in THOUGHTS) for turn in answers)


def _parted(row: dict[str, Any]) -> tuple[str, str]:
    """(what is given, what is to come) of a row of plain text. A text is cut at a space, which belongs to the word behind it."""
    if "text" not in row:
        return row["prompt"], row["completion"]
    text = row["text"]
    half = len(text) // 2
    cut = text.rfind(" ", 1, half + 1)
    return (text[:cut], text[cut:]) if cut > 0 else (text[:half], text[half:])


def _messages(row: dict[str, Any]) -> Messages | None:
    if "messages" in row:
        return list(row["messages"])
    if isinstance(row.get("prompt"), list):
        return [*row["prompt"], *row["completion"]]
    return None


def _fixed(tokenizer: Any, plain: bool) -> tuple[Sample, ...]:
    made = []
    for asked in ASKED:
        if plain or tokenizer.chat_template is None:
            text, special, messages = asked, True, None
        else:
            messages = [{"role": "user", "content": asked}]
            text, special = rendered(tokenizer, messages, prompt=True), False
        ids = tokenizer(text, add_special_tokens=special)["input_ids"]
        ids = ids[:-1] if special and ends_itself(tokenizer) else ids
        made.append(Sample(text, special, ids, ids, messages, asked))
    return tuple(made)


def _shared_system(rows: list[dict[str, Any]]) -> str | None:
    systems = {
        next((turn["content"] for turn in messages or () if turn["role"] == "system"), None)
        for messages in map(_messages, rows)
    }
    return systems.pop() if len(systems) == 1 else None
