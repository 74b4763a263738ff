"""The order of the rows in an epoch: a pure function of (seed, epoch, lengths).

Pure, so that continuing computes where a run stood instead of replaying it, and finds the same order on another machine. The
keys come from splitmix64 (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number generators") written out here, because
the streams of a library's generator may change from one version to the next.

Grouped by length, so that little is padded, yet independent of the batch size, which may change in the middle of an epoch:
rows are put into bins of nearly equal length, shuffled within the bins, laid in a line from short to long, and the line is cut
into blocks whose order is shuffled. A batch is any run of consecutive rows; nearly all of them lie within one block, where lengths
hardly differ. Blocks are small against the dataset, so an epoch is still well mixed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

BIN = 1.06
"""Neighbouring length bins differ by this factor: what a batch inside one bin pads at most."""
BLOCKS = 16
"""There are at least about this many blocks to shuffle, if the rows suffice."""
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 64
"""Rows in a block: a power of two between these."""

Rows = npt.NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def row_order(seed: int, epoch: int, lengths: npt.NDArray[np.integer]) -> Rows:
    """(rows,) row ids of `epoch` in the order they are trained on: a permutation of range(rows).

    `lengths`: (rows,) tokens of each row, all at least 1.
    """
    count = len(lengths)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    bins = np.floor(np.log(np.maximum(lengths, 1)) / np.log(BIN)).astype(np.int64)
    line = np.lexsort((_keys(seed, epoch, 0, count), bins)).astype(np.int64)
    block = _block_rows(count)
    blocks = -(-count // block)
    shuffled = np.argsort(_keys(seed, epoch, 1, blocks), kind="stable")
    padded = np.full(blocks * block, -1, dtype=np.int64)
    padded[:count] = line
    order = padded.reshape(blocks, block)[shuffled].reshape(-1)
    return order[order >= 0]


def next_batch_digest(order: Rows, start: int, count: int) -> str:
    """SHA-256 over the row ids order[start : start + count] as little-endian int64; of nothing where none is left."""
    return hashlib.sha256(np.asarray(order[start : start + count], dtype="<i8").tobytes()).hexdigest()


def _block_rows(count: int) -> int:
    wanted = max(1, count // BLOCKS)
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, 1 << (wanted.bit_length() - 1)))


def _keys(seed: int, epoch: int, stream: int, count: int) -> npt.NDArray[np.uint64]:
    """`count` keys of a stream of their own: outputs 1 to `count` of splitmix64 from a start mixed from the three numbers."""
    start = 0
    for part in (seed, epoch, stream):
        start = int(_mix(np.array([(start + part + _GOLDEN) & _MASK], dtype=np.uint64))[0])
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(steps + np.uint64(start))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's output function; unsigned arithmetic wraps, as it is meant to."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
