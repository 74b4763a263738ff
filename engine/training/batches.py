"""Which rows make the next batch: the order of data/order.py from a cursor on, cut into batches.

The sampler is told the epoch and the row to begin at, so continuing computes where the run stood and replays nothing; and the
cut depends on the batch size only from there on, so another batch size mid-epoch still takes each row exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from engine.data.order import row_order


class RowBatches(Sampler[list[int]]):
    """Batches of row ids of one epoch, from a row on. A batch sampler for torch's DataLoader."""

    def __init__(self, lengths: np.ndarray, seed: int, batch_size: int) -> None:
        """`lengths`: (rows,) tokens of each row."""
        self.lengths, self.seed, self.batch_size = lengths, seed, batch_size
        self._known: tuple[int, np.ndarray] | None = None
        self.at(0, 0)

    def at(self, epoch: int, rows_consumed: int) -> None:
        """Go to row `rows_consumed` of `epoch`."""
        self.epoch, self.rows_consumed = epoch, rows_consumed

    def order(self, epoch: int) -> np.ndarray:
        """(rows,) row ids of `epoch` in the order they are trained on. The last one is kept: every save asks for it again."""
        if self._known is None or self._known[0] != epoch:
            self._known = epoch, row_order(self.seed, epoch, self.lengths)
        return self._known[1]

    def __len__(self) -> int:
        return math.ceil((len(self.lengths) - self.rows_consumed) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch)
        for start in range(self.rows_consumed, len(order), self.batch_size):
            yield order[start : start + self.batch_size].tolist()
