"""What a loss means for the person training: go on, good enough to try, or time to look at the data.

The bounds are those of small supervised fine-tuning runs on a few hundred to a few thousand chats, where the loss of the trained
tokens is a mean negative log-likelihood in nats. They are rules of thumb, and the message says what to do rather than what the
number is worth. A loss below zero is none of that kind (GRPO, DPO variants), and nothing is said of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from engine.config import NEARLY, REACHED, TOO_LOW, RunConfig
from engine.i18n import _

LAST = 10
"""Logged losses that are smoothed over (their median)."""
LEAST = 3
"""Logs before a goal can be reached."""
LONG = 20
"""Logs from which on a loss that no longer falls is told."""
HARDLY = 0.95
"""A loss that is more than this of what it was in the second quarter of the logs has hardly fallen."""
EVAL_RISE = 1.1
"""An eval loss this factor above its lowest, twice in a row, is rising."""

RAISED = 1.5
"""A learning rate this factor higher than before may be what lifted the loss."""
MAY_RESET = ("adapter_values", "optimizer", "scheduler", "rng", "data_position", "dataset", "tokenizer", "chat_template",
             "schedule", "precision", "base_model", "probe_loss")  # fmt: skip
"""Items of the receipt whose change can move the loss."""

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
    off_path: bool = False,
) -> Advice:
    """Advice on logged training losses, oldest first, and the eval losses measured meanwhile. `off_path`: the loss has left its path
    and not come back."""
    train = [loss for loss in losses if math.isfinite(loss)]
    loss = smoothed(train)
    evals = [loss for loss in eval_losses if math.isfinite(loss)]
    if loss is None:
        return Advice("unknown", _("No loss has been logged yet."))
    if min(train[-LAST:]) < 0:
        return Advice(
            "unknown", _("A loss below zero is none of supervised fine-tuning; judge this run by its own measure.")
        )
    if off_path:
        return Advice("unknown", _(
            "The smoothed loss is {loss:.3g}: it left its path and has not come back. Go back to a checkpoint from before, with a "
            "lower learning rate.").format(loss=loss))  # fmt: skip
    if eval_is_rising(evals) and is_falling(train):
        return Advice("overfitting", _(
            "The eval loss rises ({best:.3g} to {now:.3g}) while the training loss falls: it learns the rows by heart. Take the "
            "checkpoint with the lowest eval loss, or train on more and more varied data.").format(best=min(evals), now=evals[-1])
        )  # fmt: skip
    if loss == 0:
        return Advice("overfitting", _(
            "The smoothed loss is exactly 0: no token was trained on (wrong format, or all of it masked), or the rows are known by "
            "heart. Look at the data before training on."))  # fmt: skip
    if loss < too_low:
        return Advice("overfitting", _(
            "The smoothed loss is {loss:.3g}, lower than it should get: the rows are known by heart, or the data is not what it seems "
            "(repeated rows, answers that are always the same). Look at the data before training on.").format(loss=loss)
        )  # fmt: skip
    if loss <= reached:
        return Advice("reached", _(
            "The smoothed loss is {loss:.3g}: good enough to try the model, for example in Ollama.").format(loss=loss))  # fmt: skip
    if loss <= nearly:
        return Advice("keep_going", _(
            "The smoothed loss is {loss:.3g}: nearly there. Another epoch or two may bring it below {reached:g}; the model can be "
            "tried already.").format(loss=loss, reached=reached))  # fmt: skip
    if (before := hardly_fallen_from(train)) is not None:
        return Advice("keep_going", _(
            "The smoothed loss is {loss:.3g}, above {nearly:g}: keep going. But it has hardly fallen of late ({before:.3g} before), "
            "so more epochs alone may not do it: try a higher learning rate or rank. With long and varied answers it may never get "
            "there; then try the model and judge it by what it says.").format(loss=loss, nearly=nearly, before=before))  # fmt: skip
    return Advice(
        "keep_going", _("The smoothed loss is {loss:.3g}, above {nearly:g}: keep going.").format(loss=loss, nearly=nearly)
    )


def advise_by(
    config: RunConfig, losses: Sequence[float], eval_losses: Sequence[float] = (), off_path: bool = False
) -> Advice:
    """`advise` with the bounds that a run was given."""
    return advise(losses, eval_losses, config.loss_too_low, config.loss_reached, config.loss_nearly, off_path)


def smoothed(losses: Sequence[float]) -> float | None:
    """The median of the last LAST losses, all of them numbers; None where there is none."""
    return median(losses[-LAST:]) if losses else None


def has_reached(losses: Sequence[float], goal: float) -> bool:
    """Whether the smoothed loss is down at `goal` (--stop-at-loss; 0: never). One lucky log does not count, nor do two; a loss of zero
    is no goal but a fault in the data."""
    loss = smoothed(losses)
    return goal > 0 and loss is not None and len(losses) >= LEAST and 0 < loss <= goal


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


def hardly_fallen_from(losses: Sequence[float]) -> float | None:
    """The median of the second quarter of the losses where that of the last quarter is hardly lower; None where it is, or where there
    are too few. The first quarter falls by itself."""
    quarter = len(losses) // 4
    if len(losses) < LONG:
        return None
    before = median(losses[quarter : 2 * quarter])
    return before if median(losses[-quarter:]) > HARDLY * before else None


def likely_causes(
    kind: str,
    verdicts: Mapping[str, str] | None = None,
    rate: float | None = None,
    rate_before: float | None = None,
) -> tuple[str, ...]:
    """What may lie behind a jump of the loss, the likeliest first.

    `kind`: LossJumped.kind; `verdicts`: the receipt, item -> verdict (None: the run was not continued); `rate`: the learning rate
    now; `rate_before`: at the last log before the join of a continued run, else at the one before this.
    """
    causes: list[str] = []
    verdicts = verdicts or {}
    changed = [item for item, verdict in verdicts.items() if verdict == "changed" and item in MAY_RESET]
    unknown = [item for item, verdict in verdicts.items() if verdict == "unknown" and item in MAY_RESET]
    if "dataset" in changed:
        causes.append(_("The dataset was changed and that was accepted: these are other rows."))
        changed.remove("dataset")
    if changed:
        causes.append(_("Not as it was saved: {items}.").format(items=", ".join(changed)))
    if rate is not None and rate_before is not None and rate > RAISED * rate_before:
        causes.append(_("The learning rate went up from {before:.2g} to {now:.2g}.").format(before=rate_before, now=rate))
    if "dataset" in unknown and kind == "reset_at_resume":
        causes.append(_("Other tokens may be learned than before: TRL, for one, learns all of a chat (--train-on all)."))
    if unknown and kind == "reset_at_resume":
        causes.append(_("Could not be compared when continuing: {items}.").format(items=", ".join(unknown)))
    if kind == "reset_at_resume":
        if verdicts and not changed and not unknown:
            causes.append(
                _("Everything was restored as it was saved: look at the rows that come next, and at the learning rate.")
            )
        elif not verdicts:
            causes.append(_("The adapter or the optimizer is not the saved one, or the rows are other ones than before."))
    elif kind == "non_finite":
        causes.append(_("The learning rate is too high, or float16 overflowed."))
        causes.append(_("A row has nothing but odd characters or is far longer than the others."))
    elif kind == "divergence":
        at = _(" ({rate:.2g})").format(rate=rate) if rate is not None else ""
        causes.append(_("The learning rate{at} is too high for this model.").format(at=at))
        causes.append(_("The rows of this part of the data are of another kind."))
    else:
        causes.append(_("One batch was unlike the others: an odd or very long row."))
    return tuple(causes)
