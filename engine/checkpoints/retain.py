"""Which checkpoints of a run are kept: a pure function of what there is.

The library's rotation goes by modification time and so deletes the furthest one after a copy (transformers 26961, 27138).
Here the steps decide: the furthest ones stay, the best by eval loss stays, and so do the last ones from before the loss left its
path, or may be found to have left it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """What retention needs to know of a checkpoint of this run."""

    name: str
    step: int
    eval_loss: float | None


def good(found: Iterable[Kept], until: int | None) -> Kept | None:
    """The furthest one saved up to step `until`, the last at which the loss was on its path."""
    return max(
        (kept for kept in found if until is not None and kept.step <= until), key=lambda kept: kept.step, default=None
    )


def surplus(found: Iterable[Kept], keep: int, good_until: Iterable[int | None] = ()) -> tuple[str, ...]:
    """Names to remove, oldest first: all but the furthest `keep`, the best by eval loss and, for each step of `good_until`, the last
    one saved up to it."""
    by_step = sorted(found, key=lambda kept: kept.step)
    stay = {kept.name for kept in by_step[-keep:]}
    stay |= {one.name for one in (good(by_step, until) for until in good_until) if one is not None}
    measured = [kept for kept in by_step if kept.eval_loss is not None]
    if measured:
        stay.add(min(measured, key=lambda kept: (kept.eval_loss, -kept.step)).name)
    return tuple(kept.name for kept in by_step if kept.name not in stay)
