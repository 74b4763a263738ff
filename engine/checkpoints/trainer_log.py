"""The log inside trainer_state.json, read once where a thousand checkpoints carry it.

Each checkpoint of a run holds all that was logged up to it, so the log of one is, to the byte, the beginning of the next one's, and to
parse each of them would take the square of what there is to know. So the text of a log that was parsed is kept, and where another
file's begins like it and ends at the end of a row, its rows are known already. Only the rest of such a file is parsed.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from engine.checkpoints.checkpoint import LogRow
from engine.checkpoints.files import count, number

KEY = "log_history"
_OPENS = f'"{KEY}": ['.encode()
_STANDS_IN = os.urandom(16).hex()
"""Nothing that a file could say."""
_SPACE = re.compile(r"[ \t\n\r]*")
WORTH_KEEPING = 32
"""Rows from which on a log is kept."""
MAX_KEPT, MAX_KEPT_BYTES = 64, 32 * 2**20
"""Logs that are kept, the last ones used, and all their text: runs that share a folder have one each."""
MAX_BYTES = 8 * 2**20
"""Of a file whose log is kept; some 50,000 rows."""
MAX_ROWS = 100_000
"""Of a log that is kept: what is no row may be a byte long, and each is counted."""


@dataclass(frozen=True)
class Log:
    """What a trainer logged."""

    rows: tuple[LogRow, ...]
    keys: frozenset[str]
    """Every key of any row; they tell which trainer wrote it."""


@dataclass(frozen=True)
class _Known:
    """A log that was parsed, with its text."""

    text: bytes
    """From behind the opening bracket to the end of the last row."""
    ends: Sequence[int]
    """Where each row ends in it."""
    rows: tuple[LogRow, ...]
    told: Sequence[int]
    """How many of `rows` come from the rows up to each one: what has no step is none."""
    first_with: dict[str, int]
    """By key, the first row that has it."""

    def beginning(self, many: int) -> Log:
        return Log(self.rows[: self.told[many - 1]], frozenset(key for key, row in self.first_with.items() if row < many))


_known: tuple[_Known, ...] = ()


def log_of(rows: Sequence[Any]) -> Log:
    """The log that the parsed `rows` hold; what is no row is left out."""
    objects = [row for row in rows if isinstance(row, dict)]
    found = tuple(one for one in map(_row, objects) if one is not None)
    return Log(found, frozenset(key for row in objects for key in row))


def known_log(data: bytes) -> tuple[bytes, Log] | None:
    """The file `data` with something short in the place of its log, and that log, where it is known.

    Nothing of the file has been parsed then: `stands_in` tells whether what was cut out stood where the log stands.
    """
    global _known
    begin = data.find(_OPENS) + len(_OPENS)
    for known in _known if begin >= len(_OPENS) else ():
        many = bisect_left(known.ends, True, key=lambda end: not data.startswith(known.text[:end], begin))
        if many and (rest := data[begin + known.ends[many - 1] :]).lstrip()[:1] == b"]":
            _known = (known, *(other for other in _known if other is not known))
            return _cut(data[:begin], rest), known.beginning(many)
    return None


def stands_in(value: Any) -> bool:
    """Whether `value` is what `known_log` puts in the place of a log."""
    return bool(value == [_STANDS_IN])


def keep_log(data: bytes, rows: Sequence[Any], log: Log) -> None:
    """Keep the log of the file `data`, whose rows are `rows`; one in another shape than a trainer writes is not kept."""
    global _known
    begin = data.find(_OPENS) + len(_OPENS)
    if not WORTH_KEEPING <= len(rows) <= MAX_ROWS or begin < len(_OPENS) or len(data) > MAX_BYTES or not data.isascii():
        return
    text, at, ends = data.decode("ascii"), begin, []
    decoder = json.JSONDecoder()
    for number_of_row in range(len(rows)):
        if number_of_row:
            at = _behind(text, at)
            if text[at : at + 1] != ",":
                return
            at += 1
        try:
            _value, at = decoder.raw_decode(text, _behind(text, at))
        except (ValueError, RecursionError):
            return
        ends.append(at - begin)
    rest = data[at:]
    if rest.lstrip()[:1] != b"]" or not _is_the_log(_cut(data[:begin], rest)):
        return
    told: list[int] = []
    first_with: dict[str, int] = {}
    for position, row in enumerate(rows):
        told.append((told[-1] if told else 0) + (isinstance(row, dict) and _row(row) is not None))
        for key in row if isinstance(row, dict) else ():
            first_with.setdefault(key, position)
    _known = _bounded((_Known(data[begin:at], ends, log.rows, told, first_with), *_known))


def _bounded(known: tuple[_Known, ...]) -> tuple[_Known, ...]:
    """The first of `known` that may be kept together."""
    sizes = accumulate(len(one.text) for one in known)
    return tuple(one for one, size in zip(known[:MAX_KEPT], sizes, strict=False) if size <= MAX_KEPT_BYTES)


def _cut(before: bytes, rest: bytes) -> bytes:
    return before + json.dumps(_STANDS_IN).encode() + rest


def _is_the_log(data: bytes) -> bool:
    """Whether what was cut out of `data` stood where the log stands, and not deeper inside."""
    try:
        return stands_in(json.loads(data).get(KEY))
    except RecursionError:  # parsed before, from a place with one call less behind it
        return False


def _behind(text: str, at: int) -> int:
    """Where the white space that begins at `at` ends."""
    space = _SPACE.match(text, at)
    return space.end() if space is not None else at


def _row(row: dict[str, Any]) -> LogRow | None:
    step = count(row.get("step"))
    if step is None:
        return None
    return LogRow(
        step=step,
        epoch=number(row.get("epoch")),
        loss=number(row.get("loss")),
        eval_loss=number(row.get("eval_loss")),
        learning_rate=number(row.get("learning_rate")),
    )
