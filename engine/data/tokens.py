"""Rows -> tokens and labels: chat template applied, the loss on what the model should learn to say, truncation that keeps it.

Which characters are trained on is found in masks.py, as spans of the rendered text; here the text becomes tokens and the spans
become labels, so both paths (chats and plain texts) share one tokenisation and one rule of truncation. Rows go through in chunks and
come out as Arrow batches, so that a million of them need no more room than a thousand, whether the batches go to a file
(table.py) or stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.identity import row_digest
from engine.data.masks import Rendered, ends_itself, render
from engine.data.normal import THOUGHT_BEGIN, THOUGHT_END, THOUGHTS
from engine.data.problems import Collected, Notes, Problem
from engine.data.remarks import remark
from engine.data.rendering import writes_date
from engine.data.token_table import Ids, TokenTable, schema
from engine.data.workers import in_order
from engine.errors import DatasetError
from engine.i18n import _, with_detail

IGNORED = -100
"""The label of a token that the loss does not count (torch's cross_entropy default)."""
CHUNK = 4096
"""Rows tokenised at a time."""

Numbered = Iterable[tuple[int, dict[str, Any]]]
"""(row number from 1, normalised row)."""


def tokenize(rows: Numbered, tokenizer: Any, train_on: str, max_length: int) -> TokenTable:
    """Tokenise normalised rows in memory. Raises as `tokenized`."""
    notes = Notes()
    return TokenTable(list(tokenized(rows, tokenizer, train_on, max_length, notes)), notes)


def tokenized(
    rows: Numbered,
    tokenizer: Any,
    train_on: str,
    max_length: int,
    notes: Notes,
    done: Callable[[int], None] = lambda rows: None,
    skipped: str | None = None,
) -> Iterator[Any]:
    """Arrow batches of tokenised rows, in order. `done` is told the rows so far, after each chunk. `skipped`: those that were left out
    before, as they were named.

    Rows without a token to learn from are left out and told in `notes`. Raises DatasetError (rows the template refuses, all of them
    told at the end; or no trainable token at all), ModelError (no chat template where one is needed, or one without an end) and
    ConfigError (`train_on` does not fit these rows).
    """
    refused = Collected(skipped)
    kept = 0
    work = partial(tokenize_chunk, tokenizer=tokenizer, train_on=train_on, max_length=max_length)
    source = iter(rows)
    chunks = iter(lambda: list(islice(source, CHUNK)), [])
    for count, made in in_order(work, chunks):
        notes.take(made.notes)
        refused.take(made.refused)
        notes.rows += count
        done(notes.rows)
        if made.batch is not None and not refused.count:
            kept += int(np.count_nonzero(made.batch.column("trained").to_numpy()))
            yield made.batch
    if refused.count:
        raise refused.error(notes.rows)
    if notes.rows and not kept:
        raise DatasetError(
            _("no row has a token to learn from"),
            _("All {count} rows are masked entirely.").format(count=notes.rows),
            _("Check that the answers are not empty, or choose another --train-on (now: {train_on}).").format(
                train_on=train_on
            ),
        )


@dataclass
class Made:
    """What became of a chunk of rows."""

    batch: Any = None
    """pyarrow.RecordBatch of `schema`; None where the template refused a row."""
    notes: Notes = field(default_factory=Notes)
    refused: Collected = field(default_factory=Collected)


def tokenize_chunk(chunk: Sequence[tuple[int, dict[str, Any]]], tokenizer: Any, train_on: str, max_length: int) -> Made:
    """The rows of `chunk`, rendered, tokenised and cut. Raises ModelError and ConfigError."""
    import pyarrow as pa

    made = Made()
    notes, refused = made.notes, made.refused
    rendered: dict[int, Rendered] = {}
    for place, (number, row) in enumerate(chunk):
        try:
            rendered[place] = render(row, tokenizer, train_on, number)
        except DatasetError as error:
            refused.add(_refused(error, number))
    if refused.count:
        return made
    ids: list[Ids] = []
    labels: list[Ids] = []
    columns: list[tuple[int, int, int, bytes]] = []
    marks, dated = end_marks(tokenizer), writes_date(tokenizer)
    for place, (row_ids, row_labels) in sorted(_encode(rendered, tokenizer), key=itemgetter(0)):
        number, row = chunk[place]
        found = _fit(row_ids, row_labels, max_length, number, notes)
        if found is None:  # kept as a row of no tokens: it belongs to the dataset and its identity
            notes.add(remark("nothing_to_learn", number))
            ids.append(row_ids[:0])
            labels.append(row_labels[:0])
            columns.append((number, len(row_ids), 0, row_digest(row)))
            continue
        if len(found[0]) == len(row_ids) and not _learns_to_stop(found[1], marks, tokenizer):
            notes.add(remark("stop_not_trained", number))
        if tokenizer.chat_template and isinstance(row.get("prompt"), str) and marks.isdisjoint(row_ids[1:-1].tolist()):
            notes.add(remark("template_unused", number))
        if rendered[place].closing:
            notes.add(remark("end_added", number, mark=rendered[place].closing))
        if dated and not rendered[place].add_special_tokens:
            notes.add(remark("date_written", number))
        if dropped := _dropped_system(row, rendered[place].text):
            notes.add(remark("system_dropped", number, words=repr(dropped[:40])))
        if tools := _dropped_tools(row, rendered[place].text):
            notes.add(remark("tools_dropped", number, names=tools[:40]))
        if thought := _dropped_thought(row, rendered[place].text):
            notes.add(remark("thoughts_dropped", number, words=repr(thought[:40])))
        if left_out := _dropped_words(row, rendered[place].text):
            notes.add(remark("words_dropped", number, role=left_out[0], words=repr(left_out[1][:40])))
        ids.append(found[0])
        labels.append(found[1])
        columns.append((number, len(row_ids), int(np.count_nonzero(found[1][1:] != IGNORED)), row_digest(row)))
    starts = np.concatenate([[0], np.cumsum([len(part) for part in ids])]).astype(np.int32)
    numbers, uncut, trained, digests = zip(*columns, strict=True)
    made.batch = pa.RecordBatch.from_arrays(
        [
            pa.ListArray.from_arrays(starts, pa.array(np.concatenate(ids))),
            pa.ListArray.from_arrays(starts, pa.array(np.concatenate(labels))),
            pa.array(numbers, pa.int64()), pa.array(uncut, pa.int64()), pa.array(trained, pa.int64()),
            pa.array(digests, pa.binary(32)),
        ],
        schema=schema(),
    )  # fmt: skip
    return made


def _encode(rendered: dict[int, Rendered], tokenizer: Any) -> Iterator[tuple[int, tuple[Ids, Ids]]]:
    """(place, (ids, labels)) of each rendered row. A token is trained if any of its characters is in a trained span."""
    if not getattr(tokenizer, "is_fast", False):
        for place, row in rendered.items():
            yield place, _encode_slowly(row, tokenizer)
        return
    for special in (False, True):
        chosen = {place: row for place, row in rendered.items() if row.add_special_tokens == special}
        if not chosen:
            continue
        kept = _kept(tokenizer, special)
        encoded = tokenizer(
            [row.text for row in chosen.values()],
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for (place, row), row_ids, offsets in zip(
            chosen.items(), encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            found = np.array(row_ids, dtype=np.int32)[kept]
            yield place, (found, _labels(found, np.array(offsets, dtype=np.int64).reshape(-1, 2)[kept], row))


def _kept(tokenizer: Any, special: bool) -> slice:
    """All tokens of a text, or all but an end token that the tokenizer adds: plain text has its own already, which is trained on."""
    return slice(-1) if special and ends_itself(tokenizer) else slice(None)


def _encode_slowly(row: Rendered, tokenizer: Any) -> tuple[Ids, Ids]:
    """For tokenizers that cannot say where a token stands: a span begins where the tokens of the text before it and those of the
    whole text part ways, as in TRL's masks."""
    ids = tokenizer.encode(row.text, add_special_tokens=row.add_special_tokens)[_kept(tokenizer, row.add_special_tokens)]
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    for span in row.spans:
        low, high = (
            len(ids) if edge == len(row.text)
            else _common(ids, tokenizer.encode(row.text[:edge], add_special_tokens=row.add_special_tokens)) if edge else 0
            for edge in span
        )  # fmt: skip
        labels[low:high] = ids[low:high]
    return np.array(ids, dtype=np.int32), labels


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((place for place, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other),
                min(len(ids), len(others)))  # fmt: skip


def _labels(ids: Ids, offsets: npt.NDArray[np.int64], row: Rendered) -> Ids:
    """(tokens,) labels; `offsets`: (tokens, 2) the characters of each token.

    A span is trained from its first token to its last without a gap, whatever a tokenizer says of the pieces of one character.
    A token of no characters is an added one (BOS) and is no part of any span's ends.
    """
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    real = offsets[:, 1] > offsets[:, 0]
    for low, high in row.spans:
        inside = np.flatnonzero(real & (offsets[:, 0] < high) & (offsets[:, 1] > low))
        if len(inside):
            part = slice(inside[0], inside[-1] + 1)
            labels[part] = ids[part]
    return labels


def _fit(ids: Ids, labels: Ids, max_length: int, number: int, notes: Notes) -> tuple[Ids, Ids] | None:
    """The row cut to `max_length`, never so that nothing is left to learn; None where there was nothing to begin with.

    The start is kept, as TRL does, unless all that is trained lies behind the cut: then the end of what is trained is kept.
    """
    learned = np.flatnonzero(labels[1:] != IGNORED) + 1
    if len(learned) == 0:
        return None
    if len(ids) <= max_length:
        return ids, labels
    end = max_length if learned[0] < max_length else int(learned[-1]) + 1
    begin = end - max_length
    lost = int(np.count_nonzero((learned < begin) | (learned >= end)))
    notes.add(remark("truncated", number, tokens=len(ids), limit=max_length, lost=lost, trained=len(learned)))
    return ids[begin:end], labels[begin:end]


def _refused(error: DatasetError, number: int) -> Problem:
    return Problem(number, "refused_by_template", "stops", with_detail(error.title, error.detail), error.fix)


def end_marks(tokenizer: Any) -> frozenset[int]:
    """Ids that can end a turn: the special tokens and those added to the vocabulary."""
    return frozenset({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder})


def _learns_to_stop(labels: Ids, marks: frozenset[int], tokenizer: Any) -> bool:
    """Whether an end mark is the last that is learned; a template may write white space behind it."""
    for token in labels[labels != IGNORED][::-1].tolist():
        if token in marks:
            return True
        if tokenizer.decode([token]).strip():
            return False
    return False


def _dropped_system(row: dict[str, Any], text: str) -> str | None:
    """The words of a system turn, or of a developer's, who is its newer name, that the template left out."""
    turns = row.get("messages") or (row["prompt"] if isinstance(row.get("prompt"), list) else ())
    words = (turn["content"].strip() for turn in turns if turn["role"] in ("system", "developer"))
    return next((one for one in words if one and one not in text), None)


def _dropped_tools(row: dict[str, Any], text: str) -> str | None:
    """The names of a row's tools, where the template left out every one."""
    tools = row.get("tools")
    offered = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    names = [str(one["name"]) for one in offered if isinstance(one, dict) and one.get("name")]
    return ", ".join(names) if names and not any(name in text for name in names) else None


def _dropped_thought(row: dict[str, Any], text: str) -> str | None:
    """What an answer thought and the template left out, be it kept apart or written into the answer between its marks."""
    turns = [turn for part in ("messages", "completion") if isinstance(row.get(part), list) for turn in row[part]]
    apart = (str(turn[name]).strip() for turn in turns for name in THOUGHTS if name in turn)
    before = (turn["content"].rpartition(THOUGHT_END)[0] for turn in turns if turn["role"] == "assistant")
    within = (words.rpartition(THOUGHT_BEGIN)[2].strip() for words in before)
    return next((one for one in (*apart, *within) if one not in text), None)


def _dropped_words(row: dict[str, Any], text: str) -> tuple[str, str] | None:
    """(role, words) of a turn of the user or the assistant whose words the template left out."""
    turns = [turn for part in ("messages", "prompt", "completion") if isinstance(row.get(part), list) for turn in row[part]]
    said = ((turn["role"], turn["content"].rpartition(THOUGHT_END)[2].strip()) for turn in turns)
    return next(((role, words) for role, words in said if role in ("user", "assistant") and words not in text), None)
