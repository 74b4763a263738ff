"""What happened in a run, in words: the same in a log and on a terminal (show.py), on the wizard's screens and in `runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.events import LOSS_JUMPED, PARENT_GONE, LossJumped, ResumeChecked, RolledBack, RunStopped
from engine.i18n import _
from engine.lock import WATCHER
from engine.paths import as_argument
from engine.sizes import loss_words

MARKS = {"ok": "ok     ", "changed": "changed", "failed": "FAILED ", "unknown": "unknown"}
"""The verdicts of a receipt, as words of one width; STYLES: how they are drawn."""
NOTHING = "-"
"""Stands where nothing was saved that could be shown."""
STYLES = {"ok": "green", "changed": "yellow", "failed": "bold red", "unknown": "dim"}


def item_words(item: Mapping[str, Any]) -> str:
    """An item of the receipt: what was saved, and what is there now."""
    return f"{item['item']}: {item['expected'] or NOTHING} → {item['found'] or NOTHING}"


def assumed_words(receipt: ResumeChecked) -> str:
    """How much of a receipt is proven, where part of it is not; else empty."""
    assumed = sum(1 for item in receipt.items if item["verdict"] == "unknown")
    proven = sum(1 for item in receipt.items if item["verdict"] == "ok")
    words = _("proven: {proven} items · assumed: {assumed}, for which nothing was kept to compare with")
    return words.format(proven=proven, assumed=assumed) if assumed else ""


def jump_words(kind: str) -> str:
    """What a jump of the loss is."""
    return {
        "reset_at_resume": _("the loss started over after continuing"),
        "spike": _("the loss spiked"),
        "divergence": _("the loss is rising and stays up"),
        "non_finite": _("the loss is not a number"),
    }[kind]


def ways_on(event: LossJumped) -> str:
    """What can be done about a jump, in one line."""
    if event.kind == "spike":
        return _("it may pass by itself: nothing needs to be done")
    if event.checkpoint is None:
        return _(
            "ways on: let it go on · stop it and start again with a lower --learning-rate · --on-jump rollback does that"
        )
    return _(
        "ways on: let it go on · stop it and go back with --resume {name} and a lower --learning-rate · --on-jump rollback does "
        "that by itself"
    ).format(name=event.checkpoint)


def rolled_back_words(event: RolledBack) -> str:
    """A rollback in one line."""
    aside = _(" · put into .trash: {names}").format(names=", ".join(event.set_aside)) if event.set_aside else ""
    return _("back from step {step} to {where} with the learning rate {rate:.2g} (time {number}){aside}").format(
        step=event.step, where=event.checkpoint or _("the start"), rate=event.learning_rate, number=event.number, aside=aside
    )


def into_ollama(folder: Path) -> str:
    """The command by which the result of the run in `folder` comes into Ollama."""
    command = f"lora-tui export {as_argument(folder)} --to ollama"
    return _("into Ollama: {command}").format(command=command)


def stopped_standing(event: RunStopped) -> str:
    """The loss of a run that was stopped, and what is left of it, as far as it is known."""
    loss = _(" · loss {loss}").format(loss=loss_words(event.loss)) if event.loss is not None else ""
    left = _(" · {left:.2f} epochs left").format(left=event.epochs_left) if event.epochs_left is not None else ""
    return loss + left


def stop_words(reason: str) -> str:
    """Why a run stopped; a signal by its name."""
    return {
        LOSS_JUMPED: _("the loss jumped"),
        PARENT_GONE: _("who started it has gone"),
        WATCHER: _("asked for from elsewhere"),
        "user": _("by you"),
        "detach": _("moved to a process of its own"),
    }.get(reason, reason)
