"""The rows as the model sees them: token ids and labels in Arrow batches, in memory or mapped from a file (table.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.problems import Notes, Problem

Ids = npt.NDArray[np.int32]


class TokenTable:
    """The rows as the model sees them, over Arrow batches in memory or in a file. `select` gives a table of some of its rows."""

    def __init__(self, batches: Sequence[Any], notes: Notes, chosen: npt.NDArray[np.int64] | None = None) -> None:
        """`batches`: pyarrow.RecordBatch of `schema` each. `chosen`: places of the rows that are in this table; None: all that have
        something to learn."""
        self._batches, self.notes = batches, notes
        self._flat = [_flat(batch) for batch in batches]
        self._ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
        self.chosen: npt.NDArray[np.int64] = np.flatnonzero(self._all_lengths()) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def row(self, index: int) -> dict[str, list[int]]:
        """{"input_ids", "labels"} of one row."""
        place = int(self.chosen[index])
        part = int(np.searchsorted(self._ends, place, side="right"))
        within = place - (int(self._ends[part - 1]) if part else 0)
        ids, labels, starts = self._flat[part]
        span = slice(int(starts[within]), int(starts[within + 1]))
        return {"input_ids": ids[span].tolist(), "labels": labels[span].tolist()}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What a person should know of these rows."""
        return tuple(self.notes.problems)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens of each row."""
        return self._all_lengths()[self.chosen]

    @cached_property
    def trained(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens the loss counts. The first token of a row is never predicted, so its label counts nothing."""
        return self._column("trained")[self.chosen]

    @cached_property
    def source_row(self) -> npt.NDArray[np.int64]:
        """(rows,) number of the row in the dataset, from 1: rows with nothing to learn are not in the table."""
        return self._column("source_row")[self.chosen]

    @cached_property
    def uncut(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens of each row before it was cut."""
        return self._column("uncut")[self.chosen]

    @cached_property
    def digests(self) -> npt.NDArray[np.uint8]:
        """(rows, 32) SHA-256 of each normalised row (identity.row_digest)."""
        return self.everything[1][self.chosen]

    @cached_property
    def everything(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """(numbers, digests) of all rows of the dataset, those with nothing to learn too."""
        each = [
            np.frombuffer(column.buffers()[1], dtype=np.uint8)[32 * column.offset : 32 * (column.offset + len(column))]
            for column in (batch.column("digest") for batch in self._batches)
        ]
        digests = np.concatenate(each) if each else np.empty(0, np.uint8)
        return self._column("source_row"), digests.reshape(-1, 32)

    def of_rows(self, numbers: npt.NDArray[np.int64]) -> TokenTable:
        """A table of the rows of this one whose numbers in the dataset are among `numbers`."""
        return self.select(np.flatnonzero(np.isin(self.source_row, numbers)))

    def select(self, places: npt.NDArray[np.int64]) -> TokenTable:
        """A table of the rows at `places` of this one, in that order, over the same memory."""
        return TokenTable(self._batches, self.notes, self.chosen[places])

    def to_dataset(self) -> Any:
        """A datasets.Dataset with input_ids and labels, over the same memory."""
        import datasets
        import pyarrow as pa

        whole = pa.Table.from_batches(list(self._batches), schema=schema()).select(["input_ids", "labels"])
        found = datasets.Dataset(whole)
        return found if len(self) == len(found) else found.select(self.chosen)

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        each = [batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches]
        return (np.concatenate(each) if each else np.empty(0)).astype(np.int64)

    def _all_lengths(self) -> npt.NDArray[np.int64]:
        each = [np.diff(starts) for _ids, _labels, starts in self._flat]
        return (np.concatenate(each) if each else np.empty(0)).astype(np.int64)


def schema() -> Any:
    """The columns of a batch."""
    import pyarrow as pa

    return pa.schema(
        [
            ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("source_row", pa.int64()),
            ("uncut", pa.int64()), ("trained", pa.int64()), ("digest", pa.binary(32)),
        ]
    )  # fmt: skip


def _flat(batch: Any) -> tuple[Ids, Ids, npt.NDArray[np.int32]]:
    """(ids, labels, starts) of a batch as flat arrays, copying nothing."""
    ids, labels = batch.column("input_ids"), batch.column("labels")
    return (
        ids.values.to_numpy(zero_copy_only=True),
        labels.values.to_numpy(zero_copy_only=True),
        ids.offsets.to_numpy(zero_copy_only=True),
    )
