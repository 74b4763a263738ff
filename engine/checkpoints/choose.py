"""Which checkpoint a run continues from, and why.

Pure on purpose: it is given what was found and says what to do, so the same answer reaches the browser, the headless printer,
`check` and the tests. Modification times do not appear here; choosing by them is the fault this project began with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.checkpoints.adapter import NOT_TRAINED
from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.i18n import _, n_, sentences
from engine.sizes import loss_words

WHOLE_MODEL = "whole_model"
"""The problem of a checkpoint that is no adapter's (adapter.py)."""
FOREIGN = frozenset({WHOLE_MODEL, *NOT_TRAINED, "sharded", "several_adapters"})
"""Problems of a checkpoint that no mended file would make one to continue here."""


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that was further along than the one chosen, or may have been, and why it was not taken."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True)
class Choice:
    """What to continue from."""

    checkpoint: Checkpoint | None
    """None: nothing can be continued."""
    reason: str
    passed_over: tuple[PassedOver, ...]
    """Further along than `checkpoint`, and why each was not taken; all of them where there is none. The furthest first. Behind them
    those of which only the number in their name is left to tell how far they had come, where it is larger."""


def choose(
    found: Sequence[Checkpoint],
    run: str | None = None,
    refuse: Callable[[Checkpoint], str | None] | None = None,
) -> Choice:
    """The furthest checkpoint that can be continued: by epoch, then by step.

    `run` keeps to one run. `refuse` says why a checkpoint cannot come from the run that is asked for; None: it can.
    """
    against = {checkpoint.name: _against(checkpoint, run, refuse) for checkpoint in found}
    ranked = sorted(found, key=distance, reverse=True)
    chosen = next((checkpoint for checkpoint in ranked if against[checkpoint.name] is None), None)
    passed = tuple(
        PassedOver(checkpoint, reason)
        for checkpoint in ranked
        if (reason := against[checkpoint.name]) is not None
        and (chosen is None or distance(checkpoint) > distance(chosen) or _perhaps_further(checkpoint, chosen))
    )
    return Choice(chosen, _reason(chosen, found, passed), passed)


def weights_fallback(found: Sequence[Checkpoint]) -> Checkpoint | None:
    """The furthest sound LoRA adapter: what `--init-from` can start a new run from where nothing can be continued."""
    return max((checkpoint for checkpoint in found if _has_weights(checkpoint)), key=distance, default=None)


def can_be_mended(found: Sequence[Checkpoint]) -> bool:
    """Whether the files of one of them, put right, could make it one to continue: all are of a kind that is continued here."""
    return any(not any(problem.code in FOREIGN for problem in one.problems) for one in found)


def base_fallback(found: Sequence[Checkpoint]) -> Checkpoint | None:
    """The furthest sound checkpoint of a whole model: what a new run can take as its base, and no more can be done with it here."""
    whole = [
        one
        for one in found
        if one.grade is not Grade.BROKEN and any(problem.code == WHOLE_MODEL for problem in one.problems)
    ]
    return max(whole, key=distance, default=None)


def last_good(found: Sequence[Checkpoint], run: str, until: int) -> Checkpoint | None:
    """The furthest checkpoint of `run` that can be continued and was saved up to step `until`: where to go back to after a jump."""
    good = [one for one in found if one.run == run and one.continuable and one.step is not None and one.step <= until]
    return max(good, key=distance, default=None)


EQUALLY_FAR = 2
"""So many parts of `distance` say how far; the rest decides between two that are equally far, once both are judged."""


def distance(checkpoint: Checkpoint) -> tuple[float, int, bool, bool, str]:
    """How far along it is: epoch, then step. Of two that are equally far the proven one, then the one that is named by its step, then
    the name decides. What was trained of an epoch before it was begun anew, over changed rows, counts here."""
    given_up = checkpoint.manifest.cursor.given_up if checkpoint.manifest is not None else 0.0
    return (
        checkpoint.epoch + given_up if checkpoint.epoch is not None else -1.0,
        checkpoint.step if checkpoint.step is not None else -1,
        checkpoint.grade is Grade.PROVEN,
        checkpoint.name == f"checkpoint-{checkpoint.step}",
        checkpoint.name,
    )


def _perhaps_further(checkpoint: Checkpoint, chosen: Checkpoint) -> bool:
    """Whether it cannot say where it stood, and its number is beyond the chosen one's. Trainer writes its state last, so this is what
    a save looks like that was cut off: a rank it gets from its name never, but nobody must wonder what became of it."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return checkpoint.epoch is None and number.isdecimal() and int(number) > (chosen.step or 0)


def _has_weights(checkpoint: Checkpoint) -> bool:
    unfit = any(problem.code in ("adapter_config_imports", "adapter_not_carried_on") for problem in checkpoint.problems)
    lora = checkpoint.adapter is not None and checkpoint.adapter.peft_type == "LORA"
    return checkpoint.grade is not Grade.BROKEN and lora and not unfit


def _against(checkpoint: Checkpoint, run: str | None, refuse: Callable[[Checkpoint], str | None] | None) -> str | None:
    """Why it cannot be the one; None where it can."""
    if not checkpoint.continuable:  # before whose it is: of a broken one that is only guessed
        return sentences(grade_words(checkpoint.grade), *(problem.message for problem in checkpoint.problems[:2]))
    if run is not None and checkpoint.run != run:
        return _("It belongs to another run ({run}).").format(run=checkpoint.run)
    return refuse(checkpoint) if refuse is not None else None


def grade_words(grade: Grade) -> str:
    """What a grade means, for people."""
    return {
        Grade.PROVEN: _("Every byte is as it was saved."),
        Grade.COMPLETE: _("Everything is there."),
        Grade.WEIGHTS_ONLY: _("Only its weights can be used."),
        Grade.BROKEN: _("It is broken."),
    }[grade]


def _reason(chosen: Checkpoint | None, found: Sequence[Checkpoint], passed: Sequence[PassedOver]) -> str:
    if chosen is None:
        return _nothing(found)
    parts = [
        _("{name} is the furthest that can be continued: {where}.").format(name=chosen.name, where=_where(chosen))
        if passed
        else _("{name} is the furthest: {where}.").format(name=chosen.name, where=_where(chosen))
    ]
    if chosen.manifest is not None and chosen.manifest.cursor.given_up:
        parts.append(_("Its epoch was begun anew over changed rows."))
    # Of what carries neither a place nor losses nobody knows whose it is.
    others = sorted({one.run for one in found if one.step is not None or one.history} - {chosen.run})
    if others:
        parts.append(
            n_("The folder also holds checkpoints of another run ({runs}).",
               "The folder also holds checkpoints of {count} other runs ({runs}).", len(others)).format(
                   count=len(others), runs=", ".join(others))
        )  # fmt: skip
    lost = sum(distance(one.checkpoint) < distance(chosen) for one in passed)
    if further := len(passed) - lost:
        parts.append(
            n_("{count} that is further along was passed over.", "{count} that are further along were passed over.",
               further).format(count=further)
        )  # fmt: skip
    if lost:
        parts.append(
            n_("{count} that does not say how far it had come was passed over.",
               "{count} that do not say how far they had come were passed over.", lost).format(count=lost)
        )  # fmt: skip
    return sentences(*parts)


def _nothing(found: Sequence[Checkpoint]) -> str:
    if not found:
        return _("There is no checkpoint in this folder.")
    weights = weights_fallback(found)
    base = base_fallback(found)
    if weights is None and base is not None:
        return _(
            "Nothing here can be continued. The whole model in {name} ({where}) can be the base of a new run: --model {path}"
        ).format(name=base.name, where=_where(base), path=base.path)
    if weights is None:
        return _("Nothing here can be continued, and no adapter is sound enough to start a new run from.")
    return _(
        "Nothing here can be continued. A new run can start from the weights of {name} ({where}): --init-from {path}"
    ).format(name=weights.name, where=_where(weights), path=weights.path)


def _where(checkpoint: Checkpoint) -> str:
    epoch = _("epoch {epoch:.2f}").format(epoch=checkpoint.epoch) if checkpoint.epoch is not None else _("epoch unknown")
    step = _("step {step}").format(step=checkpoint.step) if checkpoint.step is not None else _("step unknown")
    loss = [_("loss {loss}").format(loss=loss_words(checkpoint.loss))] if checkpoint.loss is not None else []
    return _(", ").join([epoch, step, *loss])
