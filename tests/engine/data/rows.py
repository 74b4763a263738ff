"""A dataset read to its end, and the digests of rows, for tests that look at them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data import formats
from engine.data.identity import Digests, row_digest
from engine.data.read import Reading
from engine.errors import DatasetError
from tests.conftest import write_jsonl

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We."}]


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


def read(tmp_path: Path, *rows: Any, format: str = "auto") -> Read:
    """`rows` as read from a file that holds them."""
    return read_rows(str(write_jsonl(tmp_path / "rows.jsonl", list(rows))), format)


def refused(tmp_path: Path, *rows: Any, format: str = "auto") -> DatasetError:
    """How `rows` are refused."""
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, *rows, format=format)
    return caught.value


def digests_of(rows: Iterable[dict[str, Any]]) -> Digests:
    """(rows, 32) digests of normalised rows."""
    return np.frombuffer(b"".join(row_digest(row) for row in rows), dtype=np.uint8).reshape(-1, 32)
