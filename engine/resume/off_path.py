"""Whether the loss had left its path when a checkpoint was saved: it may be the furthest, and is not the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import last_good
from engine.course.jumps import monitor_of
from engine.i18n import _, sentences


@dataclass(frozen=True)
class OffPath:
    """The loss had left its path and not come back."""

    good_until: int | None
    """The last step before; None where there is none."""


def off_path(checkpoint: Checkpoint) -> OffPath | None:
    """By what the monitor knew when it was saved, else by its log. None: the loss was on its path."""
    monitor = monitor_of(checkpoint)
    return OffPath(monitor.good) if monitor.off else None


def off_path_words(checkpoint: Checkpoint, found: Sequence[Checkpoint] = ()) -> str:
    """What is said after the reason to go on from `checkpoint`: empty where its loss was on its path. `found`: what else is there."""
    off = off_path(checkpoint)
    if off is None:
        return ""
    if off.good_until is None:
        return _("The loss had left its path when it was saved.")
    words = _("The loss had left its path when it was saved; it was good until step {step}.").format(step=off.good_until)
    good = last_good(found, checkpoint.run, off.good_until)
    return sentences(words, _("The last from before is {name}.").format(name=good.name) if good is not None else "")
