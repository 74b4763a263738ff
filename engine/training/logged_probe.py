"""probe_loss of a checkpoint that no probe was saved with: what is scored now, held against the loss that was logged.

A logged loss is a mean over other rows than the few that are scored, so nearness proves little and is said with its bounds. Three
things are certain enough to refuse for: the adapter does nothing, it makes the base model worse although the log had fallen, or the
log is of other tokens than those that would be trained on now (TRL counts all of a chat unless it is told otherwise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.state import last_loss
from engine.i18n import _
from engine.resume.receipt import Item, unknown
from engine.training.probe import TOLERANCE

ROWS = 8
"""Rows that are scored, however long they take: the few of a busy moment say too little to refuse a run for."""
NEAR_SHARE, NEAR = 0.25, 0.1
"""How far from the logged loss the rows that are scored may lie: a share of it, and as much more, in nats per token."""
HALF = 0.5
"""Of the way to the logged loss; less is told."""
FALLEN = 0.3
"""A log that fell by so much, in nats per token, did not do so by chance."""
WORSE = 0.01
"""Share of the base model's loss by which the same rows are scored worse, and not by rounding."""


@dataclass(frozen=True)
class Scored:
    """The rows' loss when `train_on` says which of their tokens count."""

    train_on: str
    now: float
    base: float
    """With the adapter switched off."""

    def words(self) -> str:
        """As the receipt shows it."""
        return _("{now:.4f} (base {base:.4f})").format(now=self.now, base=self.base)


@dataclass(frozen=True)
class Logged:
    """What the log says of the loss."""

    last: float
    fell: float
    """From the first one that was logged; negative where it rose."""

    @property
    def tolerance(self) -> float:
        """How far from `last` is near."""
        return NEAR + NEAR_SHARE * self.last


def logged_losses(checkpoint: Checkpoint) -> Logged | None:
    """What `checkpoint` logged up to its step; None where it logged no loss."""
    last = checkpoint.loss
    if last is None and checkpoint.step is not None:
        last = last_loss(checkpoint.history, checkpoint.step)
    first = next((row.loss for row in checkpoint.history if row.loss is not None), last)
    return Logged(last, first - last) if last is not None and first is not None else None


def near(scored: Scored, logged: Logged, precision: str) -> bool:
    """Whether `scored` lies where the log lets expect it: above the base model's loss only where the log does too, as after weights
    that began at random."""
    expected = logged.last > scored.base or not _worse(scored, precision)
    return abs(scored.now - logged.last) <= logged.tolerance and expected


def _came_by(scored: Scored, logged: Logged, precision: str) -> bool:
    """Whether `logged` lies on the way from the base model's loss to `scored`: a window that closed early in a run that fell fast lies
    far above what is reached by now. Above the base model's as far as it may lie off from a near one."""
    return scored.now <= logged.last <= scored.base + NEAR + NEAR_SHARE * scored.base and not _worse(scored, precision)


def judged(scored: Scored, other: Scored | None, logged: Logged | None, steps: int, precision: str, asked: bool) -> Item:
    """The item. `other`: the same rows when their other tokens count, where that was scored; `steps`: that were done at a rate above
    zero; `asked`: whether a person chose which tokens count."""
    expected = _("near {loss:.2f}, the last logged").format(loss=logged.last) if logged is not None else "-"
    if not math.isfinite(scored.now):
        return Item(
            "probe_loss", expected, scored.words(), "failed", _("With the adapter the model computes no finite loss.")
        )
    if steps and scored.now == scored.base and precision == "float32":
        words = _("The adapter is not there: this is the base model's loss.")
        return Item("probe_loss", expected, scored.words(), "failed", words)
    if logged is None:
        return unknown("probe_loss", scored.words())
    if other is not None and not near(scored, logged, precision):
        came_by = _came_by(other, logged, precision) and not _came_by(scored, logged, precision)
        if near(other, logged, precision) or came_by:
            return _other_tokens(expected, scored, other, asked)
    nearest = min((one for one in (scored, other) if one is not None), key=lambda one: abs(one.now - logged.last))
    fell = max(logged.fell, nearest.base - logged.last) > FALLEN
    if _worse(nearest, precision) and not near(nearest, logged, precision) and fell:
        words = _("With the adapter the loss is higher than the base model's, {scored} with --train-on {train_on}, although the log "
                  "had fallen: its weights or its scaling are not those that were trained.")  # fmt: skip
        words = words.format(scored=nearest.words(), train_on=nearest.train_on)
        return Item("probe_loss", expected, scored.words(), "failed", words)
    if scored.base - logged.last > 0.5 and scored.base - scored.now < 0.25 * (scored.base - logged.last):
        words = _("The adapter has no effect: the loss is the base model's.")
        return Item("probe_loss", expected, scored.words(), "failed", words)
    way = scored.base - logged.last
    if near(scored, logged, precision) and way > FALLEN and scored.base - scored.now < HALF * way:
        words = _("No probe was saved. It has come {part:.0%} of the way from the base model's loss to the logged one; look at the "
                  "first steps.").format(part=(scored.base - scored.now) / way)  # fmt: skip
        return Item("probe_loss", expected, scored.words(), "unknown", words)
    if near(scored, logged, precision):
        words = _("No probe was saved; it lies within {tolerance:.2f} of the logged loss, which proves little.")
        return Item("probe_loss", expected, scored.words(), "unknown", words.format(tolerance=logged.tolerance))
    words = _("No probe was saved, and it does not lie within {tolerance:.2f} of the logged loss.").format(
        tolerance=logged.tolerance
    )
    if other is not None:
        words += " " + _("With --train-on {train_on} it is {scored}.").format(train_on=other.train_on, scored=other.words())
    return Item("probe_loss", expected, scored.words(), "unknown", words)


def _worse(scored: Scored, precision: str) -> bool:
    return scored.now > scored.base + max(TOLERANCE.get(precision, 0.0) * max(1.0, scored.base), WORSE * scored.base)


def _other_tokens(expected: str, scored: Scored, other: Scored, asked: bool) -> Item:
    """Going on would train on other tokens than before: not so, unless a person said so."""
    counted = _("The logged loss counted other tokens: with --train-on {other} it is {scored}.").format(
        other=other.train_on, scored=other.words()
    )
    if asked:
        words = _("{counted} --train-on {train_on} was asked for, so the loss goes on at another level.")
        return Item(
            "probe_loss", expected, scored.words(), "changed", words.format(counted=counted, train_on=scored.train_on)
        )
    way = _(
        "go on as it was trained: --train-on {other}; or train on other tokens from here on: --train-on {train_on}"
    ).format(other=other.train_on, train_on=scored.train_on)
    return Item("probe_loss", expected, scored.words(), "failed", counted, way=way, train_on=other.train_on)
