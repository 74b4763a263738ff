"""How what is asked differs from what a checkpoint was saved with, and what that means.

Two kinds. A *contradiction* is a setting with which the checkpoint cannot be the same run (another rank, other layers, another
base): it is never continued so, and `auto` passes it over. A *difference* may change in the middle of a run; it is told, with
the side that wins and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoints.checkpoint import Checkpoint
from engine.config import Resolved, RunConfig, resolve
from engine.folder import source_of_run
from engine.i18n import _
from engine.training.steps import Length, learning_rate_at


@dataclass(frozen=True)
class Difference:
    """One setting that is not what the checkpoint was saved with."""

    item: str
    """The receipt item it belongs to (C5), or `settings` for what no item compares."""
    saved: str
    asked: str
    winner: Literal["saved", "asked"]
    reason: str


def contradiction(checkpoint: Checkpoint, config: RunConfig) -> str | None:
    """Why a run with this configuration cannot be the one that saved `checkpoint`; None where it can."""
    shape = checkpoint.adapter
    if shape is None:
        return None
    if shape.r is not None and shape.r != config.lora_r:
        return _("its LoRA rank is {saved}, asked is {asked}").format(saved=shape.r, asked=config.lora_r)
    if shape.lora_alpha is not None and shape.lora_alpha != config.lora_alpha:
        return _("its LoRA alpha is {saved:g}, asked is {asked:g}").format(saved=shape.lora_alpha, asked=config.lora_alpha)
    if config.target_modules != "all-linear" and shape.target_modules:
        asked = tuple(sorted(config.target_modules.split(",")))
        if asked != shape.target_modules:
            return _("its adapter is on {saved}, asked is {asked}").format(
                saved=", ".join(shape.target_modules), asked=", ".join(asked)
            )
    return _other_base(checkpoint, config)


def _other_base(checkpoint: Checkpoint, config: RunConfig) -> str | None:
    from engine.training.model import base_digests

    folder = Path(config.model or "").expanduser()
    if not (folder / "config.json").is_file():
        return None  # a hub id: identified when it is loaded
    if checkpoint.manifest is not None:
        saved = checkpoint.manifest.identities
        if base_digests(folder) == (saved.base_config, saved.base_weights):
            return None
        return _("it was trained on another base model ({name})").format(name=saved.base_model)
    named = checkpoint.adapter.base_model if checkpoint.adapter is not None else None
    if named is None or Path(named).name == folder.resolve().name:
        return None
    there = Path(named) / "config.json"
    if there.is_file() and base_digests(there.parent) == base_digests(folder):
        return None
    return _("it was trained on {name}, asked is {folder}").format(name=named, folder=folder)


def schedule_differences(checkpoint: Checkpoint, config: RunConfig, length: Length) -> list[Difference]:
    assert checkpoint.manifest is not None
    saved = checkpoint.manifest.schedule
    was = f"{saved.scheduler} {saved.learning_rate:g}, {saved.total_steps} steps"
    now = f"{config.scheduler} {config.learning_rate:g}, {length.total_steps} steps"
    if was == now:
        return []
    rate = learning_rate_at(config, length.total_steps, checkpoint.manifest.step)
    reason = _("the rate goes from {before:.3g} to {after:.3g} at the join").format(
        before=saved.next_learning_rate, after=rate
    )
    return [Difference("schedule", was, now, "asked", reason)]


SETTINGS = (
    "weight_decay",
    "max_grad_norm",
    "lora_dropout",
    "logging_steps",
    "save_steps",
    "keep",
    "activation_checkpointing",
)
"""Settings that may change in the middle of a run and are told when they do; those of the schedule are told as such."""


def settings_differences(resolved: Resolved, checkpoint: Checkpoint) -> list[Difference]:
    """What was asked for this start and is not what the run was started with."""
    own = source_of_run(checkpoint.path.parent)
    if own is None:
        return []
    started = resolve([own]).config
    found = []
    for name in SETTINGS:
        was, now = getattr(started, name), getattr(resolved.config, name)
        if resolved.asked(name) and was != now:
            reason = _("it takes effect from the next step on")
            found.append(Difference("settings", f"{name} {was}", f"{name} {now}", "asked", reason))
    return found
