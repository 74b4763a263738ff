"""Which rows are held back for the eval loss: decided by each row's content, not by its place.

So rows that are appended later move none of the earlier ones to the other side, and copies of a row stay on one side (a copy in
both would make the eval loss a lie).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from engine.data.identity import Digests

Places = npt.NDArray[np.int64]


def split(digests: Digests, eval_fraction: float, seed: int) -> tuple[Places, Places]:
    """(train, eval) places of rows from 0, both in the dataset's order, by the rows' digests. Neither side is empty where
    `eval_fraction` is above 0 and the rows are not all copies of one."""
    everything = np.arange(len(digests), dtype=np.int64)
    if eval_fraction <= 0:
        return everything, everything[:0]
    salt = seed.to_bytes(8, "little")
    shares = np.array(
        [int.from_bytes(hashlib.sha256(salt + digest.tobytes()).digest()[:8], "big") / 2**64 for digest in digests]
    )
    different = np.unique(shares)
    if len(different) < 2:
        return everything, everything[:0]
    # The bound is the fraction itself, so that it stays where it is when rows are added; moved only to keep both sides.
    bound = min(max(eval_fraction, different[1]), different[-1])
    return everything[shares >= bound], everything[shares < bound]
