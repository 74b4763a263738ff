"""A dataset read to its end, and the digests of rows, for tests that look at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.data import formats
from engine.data.identity import Digests, row_digest
from engine.data.read import Reading


class Read(list[dict[str, Any]]):
    """All rows, with what was found out on the way."""

    format: str
    reason: str
    notes: tuple[str, ...]


def read_rows(dataset: str, format: str = "auto", **how: Any) -> Read:
    rows = formats.read_rows(dataset, Reading(format, **how))
    found = Read(rows)
    found.format, found.reason, found.notes = rows.format, rows.reason, rows.notes
    return found


def digests_of(rows: Iterable[dict[str, Any]]) -> Digests:
    """(rows, 32) digests of normalised rows."""
    return np.frombuffer(b"".join(row_digest(row) for row in rows), dtype=np.uint8).reshape(-1, 32)
