"""Which checkpoints of a run are kept: a pure function of what there is.

The library's rotation goes by modification time and so deletes the furthest one after a copy (transformers 26961, 27138).
Here the steps decide: the furthest ones stay, the best by eval loss stays, and what is pinned stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """What retention needs to know of a checkpoint of this run."""

    name: str
    step: int
    eval_loss: float | None


def surplus(found: Iterable[Kept], keep: int, pinned: Set[str] = frozenset()) -> tuple[str, ...]:
    """Names to remove, oldest first: all but the furthest `keep`, the best by eval loss and the `pinned`."""
    by_step = sorted(found, key=lambda kept: kept.step)
    stay = {kept.name for kept in by_step[-keep:]} | set(pinned)
    measured = [kept for kept in by_step if kept.eval_loss is not None]
    if measured:
        stay.add(min(measured, key=lambda kept: (kept.eval_loss, -kept.step)).name)
    return tuple(kept.name for kept in by_step if kept.name not in stay)
