"""What a run will do, as text for people: (text, style) lines, the same for headless runs, plain questions and the review."""

from __future__ import annotations

from engine.checkpoints.checkpoint import Checkpoint
from engine.i18n import _
from engine.resume.differences import Difference
from engine.resume.plan import ResumePlan
from engine.sizes import loss_words
from tui.words import epochs_words


def plan_lines(plan: ResumePlan) -> list[tuple[str, str]]:
    """What a person sees before a run: (text, style) lines."""
    checkpoint = plan.checkpoint
    if plan.mode == "fresh" or checkpoint is None:
        return [(_("starting fresh in {folder} · {reason}").format(folder=plan.output_dir, reason=plan.reason), "bold")]
    stands = " · ".join(_standing(plan, checkpoint))
    if plan.mode == "weights":
        words = _("new run in {folder} from the weights of {what}")
        return [(words.format(folder=plan.output_dir, what=stands), "bold")]
    if plan.mode == "complete":
        words = (
            _("  its loss is where --stop-at-loss wants it; --stop-at-loss 0 goes on")
            if plan.reached
            else _("  extend it with a larger --epochs or --max-steps")
        )
        return [(_("already complete: {what}").format(what=stands), "bold"), (words, "dim")]
    left = _("{left} epochs left").format(left=_short(plan.epochs_left))
    lines = [
        (_("continuing from {what}").format(what=f"{stands} · {left}"), "bold"),
        (_("  why: {reason}").format(reason=plan.reason), ""),
    ]
    lines += [(_("  note: {message}").format(message=problem.message), "yellow") for problem in checkpoint.problems]
    lines += [
        (_("  passed over {name}: {reason}").format(name=passed.checkpoint.name, reason=passed.reason), "yellow")
        for passed in plan.passed_over
    ]
    lines += map(_difference_line, plan.differences)
    if plan.next_learning_rate is not None:
        lines.append((_("  next learning rate {rate:.3g}").format(rate=plan.next_learning_rate), ""))
    return lines


def _standing(plan: ResumePlan, checkpoint: Checkpoint) -> list[str]:
    """Where the checkpoint stands, as far as that is known: of a final adapter there is its name alone."""
    parts = [checkpoint.name]
    epoch = checkpoint.epoch
    if epoch is not None and plan.mode == "complete" and plan.config.max_steps is None and plan.config.epochs < epoch:
        parts.append(
            _("epoch {epoch}, {asked} asked for").format(epoch=_short(epoch), asked=epochs_words(plan.config.epochs))
        )
    elif epoch is not None:
        total = plan.length.total_epochs if plan.length is not None else checkpoint.planned_epochs
        parts.append(_("epoch {epoch} of {total}").format(epoch=_short(epoch), total=epochs_words(total)))
    if checkpoint.step is not None:
        parts.append(_("step {step}").format(step=checkpoint.step))
    if checkpoint.loss is not None:
        parts.append(_("last loss {loss}").format(loss=loss_words(checkpoint.loss)))
    return parts


def _difference_line(difference: Difference) -> tuple[str, str]:
    words = (
        _("  assumed {item}: saved {saved}, now {asked} · {reason}")
        if difference.winner == "assumed"
        else _("  changed {item}: saved {saved}, now {asked} · {winner} wins · {reason}")
    )
    winner = {"saved": _("saved"), "asked": _("asked"), "neither": _("neither")}.get(difference.winner)
    text = words.format(
        item=difference.item, saved=difference.saved, asked=difference.asked, winner=winner, reason=difference.reason
    )
    return text, "bold red" if difference.winner == "neither" else "yellow"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
