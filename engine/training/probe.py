"""The probe: the loss on a few fixed rows, dropout off, that says in one number whether the adapter is really there (C5).

The rows are chosen by their content, so the same dataset gives the same rows whatever its order. They are scored one at a
time: no padding, little memory, and the same sum in the same order each time, so on one machine in float32 the number comes
back exactly. How many are scored, and how much of a long one, follows from how long the first takes and is then kept by the manifest.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.data.tokens import IGNORED

MAX_ROWS = 3
MAX_TOKENS = 256
MIN_TOKENS = 8
BUDGET_SECONDS = 0.02
"""For all rows of one scoring, at least one; every save pays it in the training loop."""

TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2, "4bit": 6e-2}
"""Largest difference of the probe loss that the number format explains, absolute and relative to a loss above 1."""


@dataclass(frozen=True)
class ProbeRow:
    """One row that is scored."""

    digest: str
    """Hexadecimal digest of the dataset row's content."""
    input_ids: Sequence[int]
    labels: Sequence[int]
    tokens: int | None = None
    """What it was cut to."""

    def written(self) -> str:
        """What `score` looks at, for the manifest: the ids, with * before those that are trained on."""
        seen = zip(self.input_ids[:MAX_TOKENS], self.labels[:MAX_TOKENS], strict=True)
        return " ".join(f"{'' if label == IGNORED else '*'}{token}" for token, label in seen)

    @classmethod
    def read(cls, digest: str, written: str, tokens: int | None) -> ProbeRow:
        """The row of which `written` was kept, cut to `tokens` then."""
        ids = [int(word.removeprefix("*")) for word in written.split()]
        labels = [token if word.startswith("*") else IGNORED for token, word in zip(ids, written.split(), strict=True)]
        return cls(digest, ids, labels, tokens)

    def cut(self, tokens: int | None) -> ProbeRow:
        """The last `tokens` tokens of this row up to its last trained one; None: the row as it is."""
        if tokens is None:
            return self
        seen = self.labels[:MAX_TOKENS]
        end = 1 + max((index for index, label in enumerate(seen) if label != IGNORED), default=len(seen) - 1)
        window = slice(max(0, end - tokens), end)
        return replace(self, input_ids=self.input_ids[window], labels=self.labels[window], tokens=tokens)


def choose_rows(rows: Sequence[ProbeRow], count: int = MAX_ROWS) -> tuple[ProbeRow, ...]:
    """Up to `count` of the shorter half of `rows` that have something to learn, those with the smallest digests."""
    usable = [row for row in rows if any(label != IGNORED for label in row.labels[1:MAX_TOKENS])]
    if not usable:
        return ()
    median = sorted(len(row.input_ids) for row in usable)[len(usable) // 2]
    short = {row.digest: row for row in usable if len(row.input_ids) <= median}
    return tuple(short[digest] for digest in sorted(short)[:count])


def affordable(model: Any, rows: Sequence[ProbeRow], budget: float = BUDGET_SECONDS) -> tuple[ProbeRow, ...]:
    """As many of `rows` as can be scored within `budget` seconds, at least one; that one is cut where it alone takes longer.
    Measured on the first."""
    if not rows:
        return ()
    score(model, rows[:1])  # the first forward pass pays for warming up
    started = time.monotonic()
    score(model, rows[:1])
    each = max(time.monotonic() - started, 1e-6)
    if each <= budget:
        return tuple(rows[: min(len(rows), int(budget / each))])
    length = len(rows[0].input_ids[:MAX_TOKENS])
    return (rows[0].cut(max(MIN_TOKENS, int(length * budget / each))),) if length > MIN_TOKENS else tuple(rows[:1])


def score(model: Any, rows: Sequence[ProbeRow]) -> float:
    """Mean cross-entropy over all trained tokens of `rows`, in nats per token, in evaluation mode."""
    import torch

    from engine.training.loss import total_loss

    total, count = 0.0, 0
    with _evaluating(model), torch.no_grad():
        device = next(model.parameters()).device
        for row in rows:
            ids = torch.tensor([list(row.input_ids[:MAX_TOKENS])], device=device)
            labels = torch.tensor([list(row.labels[:MAX_TOKENS])], device=device)
            total += total_loss(model, ids, labels)
            count += sum(label != IGNORED for label in row.labels[1:MAX_TOKENS])
    return total / max(count, 1)


def score_base(model: Any, rows: Sequence[ProbeRow]) -> float:
    """As `score`, with the adapter switched off: the bare base model."""
    with model.disable_adapter():
        return score(model, rows)


def agrees(saved: float, now: float, precision: str) -> bool:
    """Whether two probe losses are the same within what `precision` explains. What is not finite agrees with nothing."""
    return math.isfinite(saved) and abs(saved - now) <= TOLERANCE[precision] * max(1.0, abs(saved))


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
