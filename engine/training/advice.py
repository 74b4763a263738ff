"""What a loss means for the person training: go on, good enough to try, or time to look at the data.

The bounds are those of small supervised fine-tuning runs on a few hundred to a few thousand chats, where the loss of the trained
tokens is a mean negative log-likelihood in nats. They are rules of thumb, and the message says what to do rather than what the
number is worth. A loss below zero is none of that kind (GRPO, DPO variants), and nothing is said of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from engine.i18n import _

LAST = 10
"""Logged losses that are smoothed over (their median)."""
TOO_LOW = 0.1
"""Below: the rows are known by heart, or the loss counts tokens that are always the same."""
REACHED = 0.3
NEARLY = 0.5
EVAL_RISE = 1.1
"""An eval loss this factor above its lowest, twice in a row, is rising."""

State = Literal["keep_going", "reached", "overfitting", "unknown"]


@dataclass(frozen=True)
class Advice:
    """What to do next."""

    state: State
    message: str


def advise(
    losses: Sequence[float],
    eval_losses: Sequence[float] = (),
    too_low: float = TOO_LOW,
    reached: float = REACHED,
    nearly: float = NEARLY,
) -> Advice:
    """Advice on logged training losses, oldest first, and the eval losses measured meanwhile."""
    train = [loss for loss in losses if math.isfinite(loss)]
    evals = [loss for loss in eval_losses if math.isfinite(loss)]
    if not train:
        return Advice("unknown", _("No loss has been logged yet."))
    last = train[-LAST:]
    loss = median(last)
    if min(last) < 0:
        return Advice(
            "unknown", _("A loss below zero is none of supervised fine-tuning; judge this run by its own measure.")
        )
    if eval_is_rising(evals) and is_falling(train):
        return Advice("overfitting", _(
            "The eval loss rises ({best:.3g} to {now:.3g}) while the training loss falls: it learns the rows by heart. Take the "
            "checkpoint with the lowest eval loss, or train on more and more varied data.").format(best=min(evals), now=evals[-1])
        )  # fmt: skip
    if loss < too_low:
        return Advice("overfitting", _(
            "The loss is {loss:.3g}, lower than it should get: the rows are known by heart, or the data is not what it seems "
            "(repeated rows, answers that are always the same). Look at the data before training on.").format(loss=loss)
        )  # fmt: skip
    if loss <= reached:
        return Advice("reached", _(
            "The loss is {loss:.3g}: good enough to try the model, for example in Ollama.").format(loss=loss))  # fmt: skip
    if loss <= nearly:
        return Advice("keep_going", _(
            "The loss is {loss:.3g}: nearly there. Another epoch or two may bring it below {reached:g}; the model can be tried "
            "already.").format(loss=loss, reached=reached))  # fmt: skip
    return Advice("keep_going", _("The loss is {loss:.3g}, above {nearly:g}: keep going.").format(loss=loss, nearly=nearly))


def eval_is_rising(evals: Sequence[float]) -> bool:
    """Whether the last two measurements are both clearly above the lowest before them, and not coming down."""
    if len(evals) < 3:
        return False
    lowest = min(evals[:-2])
    return evals[-2] > lowest and evals[-1] > EVAL_RISE * lowest and evals[-1] >= evals[-2]


def is_falling(losses: Sequence[float]) -> bool:
    """Whether the later half of the losses lies below the earlier one."""
    half = len(losses) // 2
    return half > 0 and median(losses[half:]) < median(losses[:half])


def likely_causes(kind: str, restored: bool | None) -> tuple[str, ...]:
    """What may lie behind a jump of the loss, the likeliest first. `kind`: LossJumped.kind; `restored`: whether the receipt found
    everything as it was saved (None: the run was not continued)."""
    if kind == "reset_at_resume":
        if restored:
            return (
                _("Everything was restored as it was saved, so the rows or how they are cut are other ones than before."),
                _("The learning rate after the join is much higher than before it."),
            )
        return (_("The adapter or the optimizer is not the saved one."), _("The rows are other ones than before."))
    if kind == "non_finite":
        return (
            _("The learning rate is too high, or float16 overflowed."),
            _("A row has nothing but odd characters or is far longer than the others."),
        )
    if kind == "divergence":
        return (
            _("The learning rate is too high for this model."),
            _("The rows of this part of the data are of another kind."),
        )
    return (_("One batch was unlike the others: an odd or very long row."),)
