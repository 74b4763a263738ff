"""What is odd about rows that can be read: seen once, in one pass, in bounded room.

None of it stops a start; it costs quality or is worth knowing. Each check is of one row, but for copies: exact ones are found by the
row's digest, nearly equal ones by the words they share (MinHash with banding, Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3), which is done for the first rows only, as it costs a millisecond each.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.identity import row_digest
from engine.data.normal import THOUGHTS
from engine.data.problems import Notes, Problem
from engine.i18n import _

Row = dict[str, Any]

NEARLY = 0.7
"""Share of common shingles (Jaccard) from which on two rows are nearly equal."""
COMPARED = 20_000
"""Rows that are compared for being nearly equal."""
BESIDE = 8
"""Earlier rows that one is compared with for each band they share. Rows made from a pattern share bands with thousands and are near to
none of them; without a bound 20,000 such rows took 45 s."""
SHINGLE = 3
"""Words of a shingle; characters where a script has no spaces."""
BANDS, IN_BAND = 16, 4
"""Of 64 hashes: two rows at 0.7 share a band with probability 0.99, at 0.4 with 0.34, and candidates are compared exactly."""

_HASHES = np.random.default_rng(20_260_101).integers(1, 2**31 - 1, size=(2, BANDS * IN_BAND), dtype=np.int64)
_PRIME = (1 << 31) - 1

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Characters that no keyboard types: C0 but tab and line ends, C1, zero width, bidirectional overrides."""
DAMAGE = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯|ï»¿|â€[\x80-\xbf™œ˜¦“”]|Ã[\x80-\xbf©¨¤¶¼±³º¡§]|Â[\xa0-\xbf]")
"""Traces of text that was decoded wrongly: replacement characters, UTF-8 read as GBK, Latin-1 or Windows-1252."""


MISSING = frozenset(("nan", "NaN", "<NA>", "#N/A", "<noinput>"))
"""What programs write where there is nothing: pandas, spreadsheets, Alpaca's makers."""


class Checker:
    """Looks at rows in their order. `notes` holds what was found."""

    def __init__(self, marks: tuple[str, ...] = ()) -> None:
        """`marks`: the special tokens of the model, as text."""
        self.notes = Notes()
        self._marks = marks
        self._first: dict[bytes, int] = {}
        self._near = _NearCopies()

    def see(self, number: int, row: Row) -> None:
        """One row, normalised."""
        self.notes.rows += 1
        if self._copies(number, row):
            return
        texts = list(words_of(row))
        turns = row.get("messages")
        if turns is not None:
            self._turns(number, turns)
        self._characters(number, texts)
        self._missing(number, texts)
        if turns is not None:
            self._special_tokens(number, texts)

    def other_split(self, name: str, row: Row) -> None:
        """One row of a split that is not trained on: it should not be in what is."""
        number = self._first.get(row_digest(row)[:12])
        if number is not None:
            self._tell(number, "eval_contaminated", "costs",
                       _("row {row} stands in {file} too, which is meant to measure").format(row=number, file=name),
                       _("Take it out of one of them; a loss measured on rows that were trained on says nothing."))  # fmt: skip

    def _tell(self, row: int, code: str, severity: Any, message: str, fix: str) -> None:
        self.notes.add(Problem(row, code, severity, message, fix))

    def _copies(self, number: int, row: Row) -> bool:
        """Whether the row is a copy: then nothing else is told of it again."""
        original = self._first.setdefault(row_digest(row)[:12], number)
        if original != number:
            self._tell(number, "duplicate", "info",
                       _("row {row} is an exact copy of row {original}").format(row=number, original=original),
                       _("Copies count as often as they stand there; take them out."))  # fmt: skip
            return True
        if self.notes.rows <= COMPARED and (near := self._near.like(number, row)) is not None:
            self._tell(number, "near_duplicate", "info",
                       _("row {row} is nearly the same as row {original}").format(row=number, original=near),
                       _("Many rows of one kind teach that kind only; keep the best of them."))  # fmt: skip
        return False

    def _turns(self, number: int, turns: list[Row]) -> None:
        for place, turn in enumerate(turns, 1):
            if not turn["content"].strip() and not any(turn.get(name) for name in ("tool_calls", *THOUGHTS)):
                self._tell(number, "empty_turn", "costs",
                           _("row {row}: turn {turn} ({role}) is empty").format(row=number, turn=place, role=turn["role"]),
                           _("Fill it, or take the turn or the row out."))  # fmt: skip
                break
        for place, (one, other) in enumerate(pairwise(turns), 2):
            if one["role"] == other["role"] and one["role"] in ("system", "user", "assistant"):
                self._tell(number, "same_role_twice", "costs",
                           _("row {row}: turns {first} and {second} are both of the {role}").format(
                               row=number, first=place - 1, second=place, role=one["role"]),
                           _("Join them, or put in the turn that is missing; some models' templates refuse this."))  # fmt: skip
                break
        spoken = [turn["role"] for turn in turns if turn["role"] not in ("system", "developer")]
        if spoken and spoken[0] == "assistant":
            self._tell(number, "assistant_begins", "info",
                       _("row {row}: the assistant speaks first").format(row=number),
                       _("Right for a greeting; else the user's turn is missing."))  # fmt: skip

    def _characters(self, number: int, texts: list[str]) -> None:
        for text in texts:
            if text.isascii() and text.isprintable():
                continue
            if found := DAMAGE.search(text):
                self._tell(number, "encoding_damage", "costs",
                           _("row {row} holds {text}, a trace of a wrong encoding").format(row=number, text=repr(found[0])),
                           _("Make the file again from its source, as UTF-8."))  # fmt: skip
                return
            if found := CONTROL.search(text):
                name = unicodedata.name(found[0], "")
                shown = f"U+{ord(found[0]):04X}" + (f" {name}" if name else "")
                self._tell(number, "control_character", "costs",
                           _("row {row} holds the control character {character}").format(row=number, character=shown),
                           _("Take it out: the model would learn to write it."))  # fmt: skip
                return

    def _missing(self, number: int, texts: list[str]) -> None:
        last = (text.rpartition("\n\n")[2].strip() for text in texts)  # an Alpaca's input stands behind its instruction
        if (word := next((one for one in last if one in MISSING), None)) is not None:
            self._tell(number, "missing_value", "costs",
                       _("row {row} says {text} where something seems to be missing").format(row=number, text=repr(word)),
                       _("Leave it empty, as fillna('') in pandas does: the model takes it for a word."))  # fmt: skip

    def _special_tokens(self, number: int, texts: list[str]) -> None:
        mark = next((mark for mark in self._marks for text in texts if mark in text), None)
        if mark is not None:
            self._tell(number, "special_token_in_words", "costs",
                       _("row {row} has {mark} in its words, a special token of this model").format(row=number, mark=mark),
                       _("Take it out, unless it is meant to act."))  # fmt: skip


def words_of(row: Row) -> Iterator[str]:
    """Every text of a normalised row."""
    if "text" in row:
        yield row["text"]
        return
    for part in (row.get("messages"), row.get("prompt"), row.get("completion")):
        if isinstance(part, str):
            yield part
        elif part is not None:
            yield from (turn["content"] for turn in part)


class _NearCopies:
    """Finds an earlier row that shares most of its shingles."""

    def __init__(self) -> None:
        self._bands: list[dict[bytes, list[int]]] = [{} for _band in range(BANDS)]
        self._shingles: dict[int, frozenset[int]] = {}

    def like(self, number: int, row: Row) -> int | None:
        """The number of an earlier row that this one is nearly equal to; else None, and it is remembered."""
        shingles = _shingles(" ".join(words_of(row)))
        if len(shingles) < SHINGLE:
            return None
        signature = _signature(shingles)
        keys = [signature[band * IN_BAND : (band + 1) * IN_BAND].tobytes() for band in range(BANDS)]
        candidates = {one for band, key in zip(self._bands, keys, strict=True) for one in band.get(key, ())}
        for one in sorted(candidates):
            other = self._shingles[one]
            if len(shingles & other) >= NEARLY * len(shingles | other):
                return one
        beside = [band.setdefault(key, []) for band, key in zip(self._bands, keys, strict=True)]
        for some in beside:
            if len(some) < BESIDE:
                some.append(number)
                self._shingles[number] = shingles
        return None


def _shingles(text: str) -> frozenset[int]:
    words = re.findall(r"\w+", text.casefold())
    if len(words) < 3 * SHINGLE or sum(map(len, words)) > 12 * len(words):  # a script without spaces
        words = list(re.sub(r"\W+", "", text.casefold()))
    return frozenset(zlib.crc32(" ".join(words[at : at + SHINGLE]).encode()) for at in range(len(words) - SHINGLE + 1))


def _signature(shingles: frozenset[int]) -> npt.NDArray[np.int64]:
    """(BANDS * IN_BAND,) MinHash of the shingles: the least of each hash a * x + b modulo a prime."""
    values = np.fromiter(shingles, dtype=np.int64, count=len(shingles)) % _PRIME
    hashed = (values[:, None] * _HASHES[0] + _HASHES[1]) % _PRIME
    least: npt.NDArray[np.int64] = hashed.min(axis=0)
    return least
