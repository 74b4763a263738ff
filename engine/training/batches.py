"""Which rows make the next batch: the order of data/order.py from a cursor on, cut into batches, each cut among the processes.

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
    """Batches of row ids of one epoch, from a row on. A batch sampler for torch's DataLoader.

    Of several processes each takes its part of every batch, so all of them have the same number of batches. Where an epoch ends with
    fewer rows than processes, one without a row gets `~row`: that row with nothing to learn in it.
    """

    def __init__(self, lengths: np.ndarray, seed: int, each: int, rank: int = 0, world: int = 1) -> None:
        """`lengths`: (rows,) tokens of each row; `each`: rows of a process at a time, of which there are `world`."""
        self.lengths, self.seed, self.each, self.rank, self.world = lengths, seed, each, rank, world
        self.batch_size = each * world
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
            yield share_of(order[start : start + self.batch_size].tolist(), self.rank, self.world)


def in_order(rows: int, each: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Batches of process `rank` that take `rows` rows as they come, each once among all `world` of them."""
    whole = (list(range(start, min(start + each * world, rows))) for start in range(0, rows, each * world))
    return [share_of(one, rank, world) for one in whole]


def share_of(rows: list[int], rank: int, world: int) -> list[int]:
    """What process `rank` of `world` takes of a batch; `~row` where there is no row for it."""
    begin, end = (len(rows) * one // world for one in (rank, rank + 1))
    return rows[begin:end] or [~rows[0]]
