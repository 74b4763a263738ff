"""What a dataset is, before anything is trained on it: counts, lengths, problems with row numbers, and what will be learned.

The same reading and tokenising as a run does, so that what is shown is what happens. A fault that would stop a run does not stop
the report: it becomes a problem of severity `stops`, beside whatever is known by then, and the error itself is kept for whoever
wants to raise it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.checks import Checker
from engine.data.dataset import skipped_notes
from engine.data.formats import Rows, UnknownFormat, read_rows
from engine.data.identity import template_digest, tokenizer_digest
from engine.data.masks import learned_turns
from engine.data.normal import Row
from engine.data.order import row_order
from engine.data.problems import BadRows, Notes, Problem
from engine.data.read import Reading
from engine.data.table import Tell, token_table
from engine.data.token_table import TokenTable
from engine.data.tokens import IGNORED
from engine.errors import ConfigError, DatasetError, LoraTuiError, ModelError
from engine.i18n import with_detail
from engine.paths import is_there, path_of

SCHEMA = 1
PREVIEWED = 3
"""Rows shown as the model will see them."""
BATCH = 8
"""Rows at a time that steps and padding are told for where the batch is yet to be found."""

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
class Epoch:
    """One pass over the rows, cut to `max_length`, in batches of `batch_size`."""

    tokens: int
    batch_size: int
    rows_a_step: int
    """Of as many batches as are added up for one step."""
    steps: int
    padding_grouped: float
    """Tokens with padding over tokens, in batches of rows of like length, as they are trained on."""
    padding_random: float
    """The same in batches of random rows."""


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
    """Of each kind the first ones, each with its row; `counts` has how many there are."""
    counts: dict[str, int]
    tokens: Lengths | None
    """None: no tokenizer was given, or it could not be used on these rows."""
    trained_tokens: int | None
    """Tokens of an epoch that the loss counts, rows cut to `max_length`."""
    epoch: Epoch | None
    preview: tuple[Preview, ...]
    """The first rows that have something to learn; without `tokens` their words alone, as they stand in the dataset."""
    notes: tuple[str, ...]
    max_length: int
    table: TokenTable | None
    """The rows as tokens, where there was a tokenizer."""
    stopped: LoraTuiError | None
    """What a run on this dataset would end with; None where it would start."""
    columns: str | None = None
    """What --columns could say, where the format is not recognised."""

    @property
    def refused_by_model(self) -> bool:
        """Whether its rows can be read, and it is as this model takes them that they cannot be trained on: no other setting helps."""
        return self.rows is not None and isinstance(self.stopped, BadRows | ModelError)

    def stopped_by(self, error: LoraTuiError) -> DatasetReport:
        """The same, with what stops a run beside the dataset among the problems."""
        return replace(self, **_stopped(error, Notes(list(self.problems), dict(self.counts))))

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
            "reason": self.reason,
            "notes": list(self.notes),
            "counts": self.counts,
            "epoch": asdict(self.epoch) if self.epoch is not None else None,
            "preview": [
                {"row": one.row, "pieces": [{"text": text, "trained": trained} for text, trained in one.pieces]}
                for one in self.preview
            ],
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


def dataset_report(
    dataset: str,
    reading: Reading,
    tokenizer: Any | None,
    train_on: str,
    max_length: int,
    tell: Tell = lambda done, total, seconds: None,
    batch: tuple[int, int] = (BATCH, 1),
) -> DatasetReport:
    """Read and check `dataset`; with a tokenizer, also what of it is trained on. `batch`: (rows, batches of a step). Never raises
    for what is wrong with the dataset, with the tokenizer's template or with `train_on`: that is in `problems` and `stopped`."""
    path = str(path_of(dataset).absolute()) if is_there(path_of(dataset)) else dataset
    empty = DatasetReport(path, None, "", None, (), {}, None, None, None, (), (), max_length, None, None)
    try:
        rows = read_rows(dataset, reading)
    except DatasetError as error:
        return replace(empty, **_stopped(error))
    known = replace(empty, format=rows.format, reason=rows.reason)
    checker = Checker(_marks(tokenizer))
    words: list[Preview] = []
    last = 0
    try:
        for number, row in rows.numbered():
            checker.see(number, row)
            last = number
            if len(words) < PREVIEWED:
                words.append(Preview(number, _said(row, train_on)))
        _other_splits(dataset, rows, reading, checker)
    except DatasetError as error:
        return replace(known, notes=rows.notes, **_stopped(error, checker.notes))
    notes = (*rows.notes, *skipped_notes(reading.skip_rows, last))
    known = replace(known, rows=checker.notes.rows, notes=notes)
    if tokenizer is None:
        return replace(known, problems=tuple(checker.notes.problems), counts=checker.notes.counts, preview=tuple(words))
    digest = tokenizer_digest(tokenizer) + template_digest(tokenizer)
    try:
        made = token_table(rows, reading, tokenizer, digest, train_on, max_length, tell)
    except (DatasetError, ModelError, ConfigError) as error:
        return replace(known, preview=tuple(words), **_stopped(error, checker.notes))
    table = made.table
    return replace(
        known,
        problems=(*table.problems, *checker.notes.problems),
        counts={**table.notes.counts, **checker.notes.counts},
        notes=(*notes, *([made.note] if made.note else [])),
        tokens=_lengths(table.uncut),
        trained_tokens=int(table.trained.sum()),
        epoch=_epoch(table.lengths, *batch),
        table=table,
        preview=tuple(
            Preview(int(table.source_row[index]), _pieces(table, index, tokenizer))
            for index in range(min(PREVIEWED, len(table)))
        ),
    )


def _stopped(error: LoraTuiError, found: Notes | None = None) -> dict[str, Any]:
    """The fields of a report that an error ended."""
    problems = (*_of_error(error), *(found.problems if found is not None else ()))
    counts = {**(found.counts if found is not None else {})}
    for one in _of_error(error):
        counts[one.code] = counts.get(one.code, 0) + 1
    columns = error.columns if isinstance(error, UnknownFormat) else None
    return {"problems": problems, "counts": counts, "stopped": error, "columns": columns}


def _marks(tokenizer: Any | None) -> tuple[str, ...]:
    if tokenizer is None:
        return ()
    return tuple(sorted({str(mark) for mark in tokenizer.all_special_tokens if str(mark).strip()}))


def _other_splits(dataset: str, rows: Rows, reading: Reading, checker: Checker) -> None:
    """Hold the rows of other splits in the folder against those that are trained on. What cannot be read of them is none of ours."""
    reading = replace(reading, skip_rows=None)  # those are rows of what is trained on
    found = {path.name: partial(read_rows, str(path), reading) for path in rows.raw.others}
    if not found:
        found = {split: partial(read_rows, dataset, reading, split) for split in rows.raw.splits}
    for name, other in found.items():
        for row in other():
            checker.other_split(name, row)


def _epoch(lengths: npt.NDArray[np.int64], rows: int, batches: int) -> Epoch:
    grouped = _padding(lengths, row_order(0, 0, lengths), rows)
    shuffled = _padding(lengths, row_order(0, 0, np.ones_like(lengths)), rows)
    return Epoch(int(lengths.sum()), rows, rows * batches, -(-len(lengths) // (rows * batches)), grouped, shuffled)


def _padding(lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64], rows: int) -> float:
    """Tokens with padding over tokens, in batches of `rows` in this order."""
    padded = sum(
        int(lengths[batch].max()) * len(batch) for batch in (order[at : at + rows] for at in range(0, len(order), rows))
    )
    return round(padded / max(1, int(lengths.sum())), 4)


def _said(row: Row, train_on: str) -> tuple[Piece, ...]:
    """A row's words by speaker, where no model says how it writes them; what is to be learned is the same."""
    if "messages" not in row:
        if "text" in row:
            return ((str(row["text"]), True),)
        return tuple(
            (part if isinstance(part, str) else "\n".join(map(_words, part)), learned or train_on == "all")
            for part, learned in ((row["prompt"], False), (row["completion"], True))
        )
    turns = row["messages"]
    answers = learned_turns(turns, train_on)
    pieces: list[Piece] = []
    for place, turn in enumerate(turns):
        pieces += [(f"{turn['role']}: ", train_on == "all"), (_words(turn), place in answers or train_on == "all")]
        pieces.append(("\n", False))
    return tuple(pieces[:-1])


def _words(turn: Row) -> str:
    """What a turn says, and what it calls."""
    calls = turn.get("tool_calls")
    return "\n".join(part for part in (turn["content"], *map(_call, calls if isinstance(calls, list) else ())) if part)


def _call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else call
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        return json.dumps(call, ensure_ascii=False)
    arguments = function.get("arguments")
    return f"{name}({arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)})"


def _of_error(error: LoraTuiError) -> tuple[Problem, ...]:
    if isinstance(error, BadRows):
        return error.problems
    message = with_detail(error.title, error.detail)
    codes: dict[type, str] = {ModelError: "model_unusable", ConfigError: "setting_unusable"}
    code = codes.get(type(error), "dataset_unusable")
    row = error.row if isinstance(error, DatasetError) else None
    return (Problem(row, code, "stops", message, error.fix),)


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
