"""A dataset read to its end, for tests that look at rows."""

from __future__ import annotations

from typing import Any

from engine.data import formats
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
