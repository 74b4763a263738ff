"""Whether a dataset is the one of last time, and if not, how it differs.

Digests are taken of the normalised rows: the same conversations in another file format are the same dataset. Three numbers
(DatasetIdentity) tell the four kinds of change apart without storing a digest for each row in every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from engine.checkpoints.manifest import DatasetIdentity

Change = Literal["same", "appended", "removed", "reordered", "edited"]


def row_digest(row: dict[str, Any]) -> bytes:
    """SHA-256 of a normalised row as canonical JSON: 32 bytes."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()).digest()


def identify(rows: Sequence[dict[str, Any]]) -> DatasetIdentity:
    """The identity of normalised rows."""
    return _identify([row_digest(row) for row in rows])


def compare(saved: DatasetIdentity, rows: Sequence[dict[str, Any]]) -> Change:
    """How `rows` differ from the saved ones. A change of several kinds at once is `edited`, or `removed` if rows are fewer."""
    digests = [row_digest(row) for row in rows]
    now = _identify(digests)
    if now == saved:
        return "same"
    if now.rows > saved.rows and _identify(digests[: saved.rows]).ordered == saved.ordered:
        return "appended"
    if now.rows < saved.rows:
        return "removed"
    return "reordered" if now.unordered == saved.unordered else "edited"


def _identify(digests: Sequence[bytes]) -> DatasetIdentity:
    ordered = hashlib.sha256()
    total = 0
    for digest in digests:
        ordered.update(digest)
        total += int.from_bytes(digest, "big")
    return DatasetIdentity(rows=len(digests), ordered=ordered.hexdigest(), unordered=f"{total % 2**256:064x}")
