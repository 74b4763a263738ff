"""Rows -> tokens and labels: chat template applied, the loss on what the model should learn to say, truncation that keeps it.

Which characters are trained on is found in masks.py, as spans of the rendered text; here the text becomes tokens and the spans
become labels, so both paths (chats and plain texts) share one tokenisation and one rule of truncation. A table holds flat
arrays, not lists: a million short rows must fit beside the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.data.masks import Rendered, render
from engine.errors import DatasetError
from engine.i18n import _

IGNORED = -100
"""The label of a token that the loss does not count (torch's cross_entropy default)."""
CHUNK = 1024
"""Rows tokenised at a time."""


@dataclass(frozen=True)
class TokenProblem:
    """Something about one row that a person should know."""

    row: int
    """From 1, in the dataset as given."""
    code: str
    severity: Literal["stops", "costs", "info"]
    message: str
    fix: str = ""


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
    problems: tuple[TokenProblem, ...] = ()

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
    problems: list[TokenProblem] = []
    for begin in range(0, len(rows), CHUNK):
        chunk = rows[begin : begin + CHUNK]
        rendered = [render(row, tokenizer, train_on, numbers[begin + place]) for place, row in enumerate(chunk)]
        for place, (row_ids, row_labels) in enumerate(_encode(rendered, tokenizer)):
            number = numbers[begin + place]
            found = _fit(row_ids, row_labels, max_length, number, problems)
            if found is None:
                problems.append(_nothing(number))
                continue
            ids.append(found[0])
            labels.append(found[1])
            kept.append(begin + place)
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
        tuple(problems),
    )


def _encode(rendered: Sequence[Rendered], tokenizer: Any) -> Iterable[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
    """Ids and labels of each rendered row: a token is trained if it begins inside a trained span."""
    special = bool(rendered) and rendered[0].add_special_tokens
    if not getattr(tokenizer, "is_fast", False):
        for row in rendered:
            yield _encode_slowly(row, tokenizer)
        return
    encoded = tokenizer(
        [row.text for row in rendered], add_special_tokens=special, return_offsets_mapping=True, return_attention_mask=False
    )
    for row, row_ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        found = np.array(row_ids, dtype=np.int32)
        places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        # An added special token (BOS) stands for no characters: its place is (0, 0), and it is no part of any span.
        yield found, _labels(found, places[:, 0], places[:, 1] > places[:, 0], row)


def _encode_slowly(row: Rendered, tokenizer: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For tokenizers that cannot say where a token begins: the text is tokenised span by span, cut at the spans' edges."""
    ids: list[int] = []
    labels: list[int] = []
    edges = sorted({0, len(row.text), *(edge for span in row.spans for edge in span)})
    for begin, end in pairwise(edges):
        part = tokenizer.encode(row.text[begin:end], add_special_tokens=row.add_special_tokens and begin == 0)
        trained = any(low <= begin < high for low, high in row.spans)
        ids += part
        labels += part if trained else [IGNORED] * len(part)
    return np.array(ids, dtype=np.int32), np.array(labels, dtype=np.int32)


def _labels(
    ids: npt.NDArray[np.int32], begins: npt.NDArray[np.int64], real: npt.NDArray[np.bool_], row: Rendered
) -> npt.NDArray[np.int32]:
    trained = np.zeros(len(ids), dtype=bool)
    for low, high in row.spans:
        trained |= (begins >= low) & (begins < high)
    return np.where(trained & real, ids, IGNORED).astype(np.int32)


def _fit(
    ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], max_length: int, number: int, problems: list[TokenProblem]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None:
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
    problems.append(
        TokenProblem(
            number,
            "truncated",
            "costs",
            _("row {row} has {tokens} tokens and is cut to {limit}").format(row=number, tokens=len(ids), limit=max_length),
            _("Raise --max-length, or split the row."),
        )
    )
    return ids[begin:end], labels[begin:end]


def _nothing(number: int) -> TokenProblem:
    return TokenProblem(
        number,
        "nothing_to_learn",
        "costs",
        _("row {row} has no token to learn from and is left out").format(row=number),
        _("Its answer is empty; mend or remove it."),
    )
