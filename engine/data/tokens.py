"""Rows -> tokens and labels: chat template applied, the loss on what the model should learn to say, truncation that keeps it.

Which characters are trained on is found in masks.py, as spans of the rendered text; here the text becomes tokens and the spans
become labels, so both paths (chats and plain texts) share one tokenisation and one rule of truncation. A table holds flat
arrays, not lists: a million short rows must fit beside the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.masks import Rendered, render
from engine.data.problems import Problem, bad_rows
from engine.errors import DatasetError
from engine.i18n import _

TokenProblem = Problem

IGNORED = -100
"""The label of a token that the loss does not count (torch's cross_entropy default)."""
CHUNK = 1024
"""Rows tokenised at a time."""

_RENDERING = threading.Lock()
"""transformers keeps one compiled template with its marks for all threads ("AssistantTracker should not be reused"): the wizard's
preview of one model and the run of another must take turns."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenTable:
    """The rows as the model sees them. Row i is ids[starts[i]:starts[i+1]]."""

    ids: npt.NDArray[np.int32]
    """(tokens,) all rows' input ids, end to end."""
    labels: npt.NDArray[np.int32]
    """(tokens,) the id itself where it is trained on, -100 where not."""
    starts: npt.NDArray[np.int64]
    """(rows + 1,)"""
    source_row: npt.NDArray[np.int64]
    """(rows,) place of the row in what was tokenised, from 0: rows with nothing to learn are not in the table."""
    uncut: npt.NDArray[np.int64]
    """(rows,) tokens of each row before it was cut."""
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> dict[str, list[int]]:
        """{"input_ids", "labels"} of one row."""
        part = slice(self.starts[index], self.starts[index + 1])
        return {"input_ids": self.ids[part].tolist(), "labels": self.labels[part].tolist()}

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens of each row."""
        lengths: npt.NDArray[np.int64] = self.starts[1:] - self.starts[:-1]
        return lengths

    @property
    def trained(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens the loss counts. The first token of a row is never predicted, so its label counts nothing."""
        counted = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        firsts = self.labels[self.starts[:-1]] != IGNORED
        trained: npt.NDArray[np.int64] = counted[self.starts[1:]] - counted[self.starts[:-1]] - firsts
        return trained

    def to_dataset(self) -> Any:
        """A datasets.Dataset with input_ids and labels, over the same memory."""
        import datasets
        import pyarrow as pa

        offsets = pa.array(self.starts)
        lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values))
                 for name, values in (("input_ids", self.ids), ("labels", self.labels))}  # fmt: skip
        return datasets.Dataset(pa.table(lists))


def tokenize(
    rows: Sequence[dict[str, Any]], tokenizer: Any, train_on: str, max_length: int, numbers: Sequence[int] | None = None
) -> TokenTable:
    """Tokenise normalised rows. `numbers`: their row numbers for messages, from 1 (default: 1, 2, ...).

    Rows without a token to learn from are left out and told in `problems`. Raises DatasetError (a row the template refuses, or no
    trainable token at all) and ModelError (no chat template where one is needed).
    """
    numbers = range(1, len(rows) + 1) if numbers is None else numbers
    ids: list[npt.NDArray[np.int32]] = []
    labels: list[npt.NDArray[np.int32]] = []
    kept: list[int] = []
    uncut: list[int] = []
    problems: list[Problem] = []
    refused: list[Problem] = []
    for begin in range(0, len(rows), CHUNK):
        rendered: dict[int, Rendered] = {}
        for place in range(begin, min(begin + CHUNK, len(rows))):
            try:
                with _RENDERING:
                    rendered[place] = render(rows[place], tokenizer, train_on, numbers[place])
            except DatasetError as error:
                refused.append(_refused(error, numbers[place]))
        if refused:
            continue
        for place, (row_ids, row_labels) in sorted(_encode(rendered, tokenizer), key=itemgetter(0)):
            found = _fit(row_ids, row_labels, max_length, numbers[place], problems)
            if found is None:
                problems.append(_nothing(numbers[place]))
                continue
            ids.append(found[0])
            labels.append(found[1])
            kept.append(place)
            uncut.append(len(row_ids))
    if refused:
        raise bad_rows(refused, len(rows))
    if rows and not kept:
        raise DatasetError(
            _("no row has a token to learn from"),
            _("All {count} rows are masked entirely.").format(count=len(rows)),
            _("Check that the answers are not empty, or choose another --train-on (now: {train_on}).").format(
                train_on=train_on
            ),
        )
    starts = np.concatenate([[0], np.cumsum([len(part) for part in ids])]).astype(np.int64)
    empty = np.empty(0, dtype=np.int32)
    return TokenTable(
        np.concatenate([empty, *ids]),
        np.concatenate([empty, *labels]),
        starts,
        np.array(kept, dtype=np.int64),
        np.array(uncut, dtype=np.int64),
        tuple(problems),
    )


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
            found = np.array(row_ids, dtype=np.int32)
            yield place, (found, _labels(found, np.array(offsets, dtype=np.int64).reshape(-1, 2), row))


def _encode_slowly(row: Rendered, tokenizer: Any) -> tuple[Ids, Ids]:
    """For tokenizers that cannot say where a token stands: a span begins where the tokens of the text before it and those of the
    whole text part ways, as in TRL's masks."""
    ids = tokenizer.encode(row.text, add_special_tokens=row.add_special_tokens)
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


def _fit(ids: Ids, labels: Ids, max_length: int, number: int, problems: list[Problem]) -> tuple[Ids, Ids] | None:
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
    what = _("row {row} has {tokens} tokens and is cut to {limit}; {lost} of its {trained} trained tokens are lost").format(
        row=number, tokens=len(ids), limit=max_length, lost=lost, trained=len(learned)
    )
    problems.append(Problem(number, "truncated", "costs", what, _("Raise --max-length, or split the row.")))
    return ids[begin:end], labels[begin:end]


def _refused(error: DatasetError, number: int) -> Problem:
    message = f"{error.title}: {error.detail}" if error.detail else error.title
    return Problem(number, "refused_by_template", "stops", message, error.fix)


def _nothing(number: int) -> Problem:
    return Problem(
        number,
        "nothing_to_learn",
        "costs",
        _("row {row} has no token to learn from and is left out").format(row=number),
        _("Its answer is empty; mend or remove it."),
    )
