"""What a dataset is, before anything is trained on it: counts, lengths, problems with row numbers, and what will be learned.

The same reading and tokenising as a run does, so that what is shown is what happens. A fault that would stop a run does not stop
the report: it becomes a problem of severity `stops`, beside whatever is known by then, and the error itself is kept for whoever
wants to raise it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.formats import Row, Rows, read_rows
from engine.data.identity import row_digest
from engine.data.problems import BadRows, Problem
from engine.data.tokens import IGNORED, TokenTable, tokenize
from engine.errors import DatasetError, LoraTuiError, ModelError
from engine.i18n import _, n_

SCHEMA = 1
PREVIEWED = 3
"""Rows shown as the model will see them."""
NAMED = 1000
"""Problems of one kind that are listed one by one; a last one counts the others."""

Piece = tuple[str, bool]
"""(text, whether it is trained on): tokens in a row that are treated alike, decoded together, as characters may span tokens."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows before any is cut to --max-length."""

    total: int
    min: int
    median: float
    p95: float
    max: int
    histogram: tuple[tuple[int, int, int], ...]
    """(from, up to and including, rows): each bin twice as wide as the one before, from the shortest row's bin to the longest's."""


@dataclass(frozen=True)
class Preview:
    """One row as the model will see it, cut as it will be."""

    row: int
    """From 1."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class DatasetReport:
    """One dataset, described. What could not be found out is None."""

    path: str
    format: str | None
    reason: str
    """Why it is this format; empty where it is none."""
    rows: int | None
    problems: tuple[Problem, ...]
    tokens: Lengths | None
    """None: no tokenizer was given, or it could not be used on these rows."""
    trained_tokens: int | None
    """Tokens of an epoch that the loss counts, rows cut to `max_length`."""
    preview: tuple[Preview, ...]
    """The first rows that have something to learn; without `tokens` their words alone, as they stand in the dataset."""
    notes: tuple[str, ...]
    max_length: int
    stopped: LoraTuiError | None
    """What a run on this dataset would end with; None where it would start."""

    def to_json(self) -> dict[str, Any]:
        """The document of `data --json`."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "rows": self.rows,
            "problems": [
                {"row": one.row, "code": one.code, "severity": one.severity, "message": one.message, "fix": one.fix}
                for one in self.problems
            ],
            "tokens": _lengths_json(self.tokens) if self.tokens is not None else None,
            "trained_tokens": self.trained_tokens,
        }


def _lengths_json(lengths: Lengths) -> dict[str, Any]:
    return {
        "total": lengths.total,
        "min": lengths.min,
        "median": lengths.median,
        "p95": lengths.p95,
        "max": lengths.max,
        "histogram": [{"from": low, "to": high, "rows": rows} for low, high, rows in lengths.histogram],
    }


def dataset_report(dataset: str, format: str, tokenizer: Any | None, train_on: str, max_length: int) -> DatasetReport:
    """Read and check `dataset`; with a tokenizer, also what of it is trained on. Never raises for what is wrong with the dataset
    or with the tokenizer's template: that is in `problems` and `stopped`."""
    path = str(Path(dataset).expanduser().absolute()) if _is_local(dataset) else dataset
    empty = DatasetReport(path, None, "", None, (), None, None, (), (), max_length, None)
    try:
        rows = read_rows(dataset, format)
    except DatasetError as error:
        return replace(empty, problems=_of_error(error), stopped=error)
    known = replace(empty, format=rows.format, reason=rows.reason, rows=len(rows), notes=rows.notes)
    found = (*_copies(rows), *_written_marks(rows, tokenizer))
    if tokenizer is None:
        words = tuple(
            Preview(number, _said(rows[number - 1], train_on)) for number in range(1, min(PREVIEWED, len(rows)) + 1)
        )
        return replace(known, problems=found, preview=words)
    try:
        table = tokenize(rows, tokenizer, train_on, max_length)
    except (DatasetError, ModelError) as error:
        return replace(known, problems=(*_of_error(error), *found), stopped=error)
    return replace(
        known,
        problems=(*_shortened(table.problems), *found),
        tokens=_lengths(table.uncut),
        trained_tokens=int(table.trained.sum()),
        preview=tuple(
            Preview(int(table.source_row[index]) + 1, _pieces(table, index, tokenizer))
            for index in range(min(PREVIEWED, len(table)))
        ),
    )


def _said(row: Row, train_on: str) -> tuple[Piece, ...]:
    """A row's words by speaker, where no model says how it writes them; what is to be learned is the same."""
    if "messages" not in row:
        if "text" in row:
            return ((str(row["text"]), True),)
        return tuple(
            (part if isinstance(part, str) else "\n".join(turn["content"] for turn in part), learned or train_on == "all")
            for part, learned in ((row["prompt"], False), (row["completion"], True))
        )
    turns = row["messages"]
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    pieces: list[Piece] = []
    for place, turn in enumerate(turns):
        learned = turn["role"] == "assistant" and (train_on != "completion" or place == last)
        pieces += [(f"{turn['role']}: ", train_on == "all"), (turn["content"], learned or train_on == "all")]
        pieces.append(("\n", False))
    return tuple(pieces[:-1])


def _is_local(dataset: str) -> bool:
    try:
        return Path(dataset).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _of_error(error: LoraTuiError) -> tuple[Problem, ...]:
    if isinstance(error, BadRows):
        return _shortened(error.problems)
    message = f"{error.title}: {error.detail}" if error.detail else error.title
    code = "model_unusable" if isinstance(error, ModelError) else "dataset_unusable"
    return (Problem(None, code, "stops", message, error.fix),)


def _shortened(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """`problems`, of each kind at most NAMED one by one."""
    kept: list[Problem] = []
    for code in dict.fromkeys(problem.code for problem in problems):
        same = [problem for problem in problems if problem.code == code]
        kept += same[:NAMED]
        if (more := len(same) - NAMED) > 0:
            kept.append(replace(same[0], row=None, message=n_("{count} more row like these", "{count} more rows like these", more)
                                .format(count=more)))  # fmt: skip
    return tuple(kept)


def _copies(rows: Rows) -> Iterator[Problem]:
    """One problem for all rows that are exact copies of an earlier one."""
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for number, row in enumerate(rows, 1):
        original = first.setdefault(row_digest(row), number)
        if original != number:
            copies.append((number, original))
    if copies:
        number, original = copies[0]
        message = n_(
            "{count} row is an exact copy of an earlier one: row {row} of row {original}",
            "{count} rows are exact copies of earlier ones, the first is row {row}, of row {original}",
            len(copies),
        ).format(count=len(copies), row=number, original=original)
        yield Problem(number, "duplicate", "info", message, _("Copies count as often as they stand there; take them out."))


def _written_marks(rows: Rows, tokenizer: Any | None) -> Iterator[Problem]:
    """One problem for all chats whose words hold a special token of the model: it will act as the mark itself, not as text."""
    marks = (
        sorted({str(mark) for mark in tokenizer.all_special_tokens if str(mark).strip()}) if tokenizer is not None else []
    )
    found = []
    for number, row in enumerate(rows, 1):
        words = _words(row)
        found += [(number, mark) for mark in marks if mark in words][:1]
    if found:
        number, mark = found[0]
        message = n_(
            "{count} row has a special token of this model in its words: row {row} has {mark}",
            "{count} rows have special tokens of this model in their words, the first is row {row} with {mark}",
            len(found),
        ).format(count=len(found), row=number, mark=mark)
        yield Problem(number, "special_token_in_words", "costs", message, _("Take it out, unless it is meant to act."))


def _words(row: Row) -> str:
    """All that people said in a chat. Texts and pairs are written with marks on purpose, so they count as none."""
    turns = row.get("messages") or []
    return "\n".join(turn["content"] for turn in turns)


def _lengths(uncut: npt.NDArray[np.int64]) -> Lengths:
    bits = np.ceil(np.log2(np.maximum(uncut, 1))).astype(int)
    bins = range(int(bits.min()), int(bits.max()) + 1)
    return Lengths(
        total=int(uncut.sum()),
        min=int(uncut.min()),
        median=float(np.median(uncut)),
        p95=float(np.percentile(uncut, 95)),
        max=int(uncut.max()),
        histogram=tuple((2 ** (bit - 1) + 1 if bit else 1, 2**bit, int((bits == bit).sum())) for bit in bins),
    )


def _pieces(table: TokenTable, index: int, tokenizer: Any) -> tuple[Piece, ...]:
    row = table.row(index)
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    return tuple(
        (str(tokenizer.decode([token for token, _label in run], clean_up_tokenization_spaces=False)), trained)
        for trained, run in groupby(tokens, key=lambda pair: pair[1] != IGNORED)
    )
