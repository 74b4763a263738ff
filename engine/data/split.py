"""Which rows are held back for the eval loss: decided by each row's content, not by its place.

So rows that are appended later move none of the earlier ones to the other side, and copies of a row stay on one side (a copy in
both would make the eval loss a lie).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from engine.data.identity import row_digest


def split(rows: Sequence[dict[str, Any]], eval_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train, eval) row numbers from 0, both in the dataset's order. Neither side is empty where `eval_fraction` is above 0
    and the rows are not all copies of one."""
    if eval_fraction <= 0:
        return list(range(len(rows))), []
    salt = seed.to_bytes(8, "little")
    shares = [int.from_bytes(hashlib.sha256(salt + row_digest(row)).digest()[:8], "big") / 2**64 for row in rows]
    different = sorted(set(shares))
    if len(different) < 2:
        return list(range(len(rows))), []
    # The bound is the fraction itself, so that it stays where it is when rows are added; moved only to keep both sides.
    bound = min(max(eval_fraction, different[1]), different[-1])
    held = [index for index, share in enumerate(shares) if share < bound]
    kept = [index for index, share in enumerate(shares) if share >= bound]
    return kept, held
