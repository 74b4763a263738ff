"""What of a dataset's rows is not read: columns of words, and parts of turns, that no format has a place for. A person is told, since
what is not read is not learned.

Which parts are read is not listed anywhere: a row that remembers what it is asked for goes through the reading itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from engine.data.normal import SYSTEM, Bad, Row
from engine.data.wanted import WANTED, truth
from engine.i18n import _

JUDGED = re.compile(r"safe|correct|good|accept|valid|prefer|desir|wanted")
"""In the name of a column of true and false: it may say that an answer is not one to learn."""
FOR_THE_TEMPLATE = "chat_template_kwargs"
"""Column by which TRL tells a template of each row whether to think, say: its answers are written in another way then."""
UNREAD_NAMED = 8
"""Columns that are not read which are named."""


def unread(
    name: str, normalise: Callable[[Row], Row], example: Row, columns: dict[str, str], pair: tuple[str, str] | None
) -> tuple[str, ...]:
    """What is said of the dataset `name`, whose rows are like `example`, which has what its first rows have.

    `normalise`: what reads a row. `columns`: the dataset's own names -> the known ones that `example` has. `pair`: the columns of rows
    that are a prompt and its completion.
    """
    row = _Seen({column: _seen_turns(value) for column, value in example.items()})
    try:
        plain = any(isinstance(part, str) for part in normalise(row).values())
    except Bad:  # told when the rows are gone through
        return ()
    own = {known: column for column, known in columns.items()}
    lost = [column for column in (*SYSTEM, "history", "tools") if plain and example.get(column)]
    looked_at = {column for column in WANTED if truth(example.get(column)) is None}  # which is not read
    looked_at |= {"history"} if isinstance(example.get("history"), str) else set()
    read = {*lost, *row.seen} - looked_at
    told_of = [column for column in example if column or example[column]]  # but an empty one without a name
    left_out = [column for column in told_of if column not in read and _holds_words(column, example[column])]
    notes = []
    if lost and pair is not None:
        left, right = (own.get(side, side) for side in pair)
        notes.append(
            _(
                "{name}: not learned are the columns {columns}; rows of plain text have no turns to put them in; to make "
                "conversations of them: --columns instruction={left},output={right}"
            ).format(name=name, columns=_listed(lost, own), left=left, right=right)
        )
    elif lost:
        notes.append(
            _("{name}: not learned are the columns {columns}; rows of plain text have no turns to put them in").format(
                name=name, columns=_listed(lost, own)
            )
        )
    if left_out:
        notes.append(
            _("{name}: columns that are not read: {columns}; --columns chooses others").format(
                name=name, columns=_listed(left_out, own)
            )
        )
    turns = [
        turn for value in row.values() if isinstance(value, list) for turn in value if isinstance(turn, _Seen) and turn.seen
    ]
    parts = dict.fromkeys(
        part for turn in turns for part in turn if part not in turn.seen and _holds_words(part, turn[part])
    )
    if parts:
        notes.append(_("{name}: parts of turns that are not read: {parts}").format(name=name, parts=_listed([*parts], own)))
    return tuple(notes)


def _seen_turns(value: Any) -> Any:
    return [_Seen(turn) if isinstance(turn, dict) else turn for turn in value] if isinstance(value, list) else value


def _listed(columns: list[str], own: dict[str, str]) -> str:
    """Some of `columns`, by the names that the dataset has for them."""
    return ", ".join(
        [own.get(column, column) for column in columns[:UNREAD_NAMED]] + ["..."] * (len(columns) > UNREAD_NAMED)
    )


class _Seen(dict[str, Any]):
    """A row or a turn that remembers which of its parts were asked for."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.seen: set[str] = set()

    def get(self, column: str, default: Any = None) -> Any:
        """As dict does."""
        self.seen.add(column)
        return super().get(column, default)


def _holds_words(column: str, value: Any) -> bool:
    """Whether a column may be meant to be learned, or says what is: text that is no number, under a name that does not only count;
    objects or pairs with words of their own; a mark of wanted and unwanted answers, or of what they weigh; what a chat template is to
    be told of the row."""
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict | list)
    if isinstance(value, dict):
        return bool(value) and column == FOR_THE_TEMPLATE
    if isinstance(value, bool) and JUDGED.search(column.lower()):
        return True
    if isinstance(value, int | float):
        return column in (*WANTED, "weight", "train")
    return (
        isinstance(value, str) and not value.strip().isdigit() and re.search(r"(^|_)(id|idx|uuid)$", column.lower()) is None
    )
