"""Whether a dataset is the one of last time, and if not, how it differs.

Digests are taken of the normalised rows: the same conversations in another file format are the same dataset. Three numbers
(DatasetIdentity) tell the four kinds of change apart without storing a digest for each row in every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.checkpoints.manifest import DatasetIdentity

Change = Literal["same", "appended", "removed", "reordered", "edited"]


Digests = npt.NDArray[np.uint8]
"""(rows, 32) SHA-256 of each row, as `row_digest` gives them."""


def row_digest(row: dict[str, Any]) -> bytes:
    """SHA-256 of a normalised row as canonical JSON: 32 bytes."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()).digest()


def identify(digests: Digests) -> DatasetIdentity:
    """The identity of rows, by their digests in order."""
    ordered = hashlib.sha256(np.ascontiguousarray(digests).tobytes())
    # The sum modulo 2**256 of big-endian numbers: column sums of 32-bit words, carried by Python's integers.
    words = (
        np.ascontiguousarray(digests).view(">u4").astype(np.uint64).sum(axis=0) if len(digests) else np.zeros(8, np.uint64)
    )
    total = sum(int(word) << (32 * (7 - place)) for place, word in enumerate(words))
    return DatasetIdentity(rows=len(digests), ordered=ordered.hexdigest(), unordered=f"{total % 2**256:064x}")


def compare(saved: DatasetIdentity, digests: Digests) -> Change:
    """How rows with these digests differ from the saved ones. A change of several kinds at once is `edited`, or `removed` if there are
    fewer."""
    now = identify(digests)
    if now == saved:
        return "same"
    if now.rows > saved.rows and identify(digests[: saved.rows]).ordered == saved.ordered:
        return "appended"
    if now.rows < saved.rows:
        return "removed"
    return "reordered" if now.unordered == saved.unordered else "edited"


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what turns text into ids: the fast tokenizer's own description, or the vocabulary of a slow one."""
    if tokenizer.is_fast:
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description.pop("truncation", None)
        description.pop("padding", None)
    else:
        description = {"vocab": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps([description, special], sort_keys=True).encode()).hexdigest()


def template_digest(tokenizer: Any) -> str:
    """SHA-256 of the chat template, of several by name in whatever order they were read; of the empty text where there is none."""
    template = tokenizer.chat_template
    return hashlib.sha256(
        (template if isinstance(template, str) else json.dumps(template or "", sort_keys=True)).encode()
    ).hexdigest()
