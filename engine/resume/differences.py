"""How what is asked differs from what a checkpoint was saved with, and what that means.

A difference may change in the middle of a run; it is told, with the side that wins and why. With what may not, the checkpoint cannot
be the same run's (contradictions.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.manifest import Geometry, Identities
from engine.checkpoints.rates import SavedRates
from engine.checkpoints.state import STATE_NAME, stops_by_eval_loss
from engine.config import RunConfig
from engine.course.steps import Length, chosen_batch_size, learning_rate_at, warmup_steps
from engine.data.dataset import DATA_SETTINGS, Dataset, data_settings_digest, eval_rows
from engine.data.identity import Change, compare, identify
from engine.data.read import Reading
from engine.data.table import row_digests
from engine.i18n import _, n_
from engine.resume.logged import is_of_a_stream, logged_geometry, logged_schedule, schedule_words
from engine.resume.whose import settings_beside
from engine.sizes import loss_words
from engine.sources import Resolved, resolve


@dataclass(frozen=True)
class Difference:
    """One setting that is not what the checkpoint was saved with."""

    item: str
    """The receipt item it belongs to (C5), or `settings` for what no item compares."""
    saved: str
    asked: str
    winner: Literal["saved", "asked", "neither", "assumed"]
    """neither: the run will not start like this (the receipt fails) unless the item is accepted; assumed: nobody asked for it, and
    what was saved does not say."""
    reason: str


def geometry_words(batch_size: int, grad_accum: int, world: int) -> str:
    """How rows are cut into steps, as the receipt shows it: rows at a time x batches a step, x processes where there are several."""
    return " x ".join(map(str, (batch_size, grad_accum, *((world,) if world > 1 else ()))))


def geometry_difference(saved: Geometry, now: Geometry) -> list[Difference]:
    """batch_geometry: told where rows are cut into steps in another way; the rows of an epoch are not touched by it."""
    if saved == now:
        return []
    reason = _("the epoch goes on by rows, each still exactly once")
    if saved.world_size != now.world_size:
        kept = saved.rows == now.rows
        words = _("a step stays {rows} rows") if kept else _("a step was {saved} rows and becomes {rows}")
        reason = f"{reason}; {words.format(rows=now.rows, saved=saved.rows)}"
    shown = [geometry_words(one.batch_size, one.grad_accum, one.world_size) for one in (saved, now)]
    return [Difference("batch_geometry", shown[0], shown[1], "asked", reason)]


def logged_geometry_difference(checkpoint: Checkpoint, config: RunConfig, rows: int) -> list[Difference]:
    """batch_geometry of another tool's run, as far as its log tells: told where an epoch of now is another number of steps, and
    where rows or batches of a step were taken from that number."""
    size, _reason = chosen_batch_size(config, rows, checkpoint.batch_size)
    told = logged_geometry(checkpoint, math.ceil(rows / (size * config.grad_accum * config.world)))
    words = geometry_words(size, config.grad_accum, config.world)
    if is_of_a_stream(checkpoint):
        reason = _(
            "its rows came from a stream, so nothing that was saved says which of them it had seen, or how many batches it added up "
            "for a step; name them with --grad-accum"
        )
        return [Difference("batch_geometry", "-", words, "assumed", reason)]
    if told is not None and told[0] == told[1] and checkpoint.batch_size is None:
        reason = _(
            "so many rows a step follow from the steps of an epoch; how many were taken at a time, and whether they were packed, was "
            "not saved"
        )
        return [Difference("batch_geometry", told[0], words, "assumed", reason)]
    if told is not None and told[0] == told[1] and config.grad_accum > 1:
        reason = _(
            "so many batches a step follow from the steps of an epoch; had its rows been packed, it would look the same"
        )
        return [Difference("batch_geometry", told[0], words, "assumed", reason)]
    if told is None or told[0] == told[1]:
        return []
    reason = _("nothing that was saved says how many batches it added up for a step; name them with --grad-accum")
    return [Difference("batch_geometry", *told, "asked", reason)]


def rows_words(count: int) -> str:
    """How many rows a dataset has."""
    return n_("{count} row", "{count} rows", count).format(count=count)


def change_words(how: Change) -> str:
    """How a dataset differs."""
    return {
        "same": _("It is the same."),
        "appended": _("Rows were appended to it."),
        "removed": _("Rows were removed from it."),
        "reordered": _("The same rows stand in another order."),
        "edited": _("Rows were edited."),
    }[how]


def material_differences(checkpoint: Checkpoint, config: RunConfig, dataset: Dataset) -> list[Difference]:
    """dataset, tokenizer and chat_template against the saved ones, told before anything is loaded.

    Where the tokenizer's files are those of last time it is not loaded at all. Otherwise it is, since other files may well make the
    same tokenizer; that imports transformers, and is paid only then.
    """
    assert checkpoint.manifest is not None
    saved, found = checkpoint.manifest.identities, []
    rows = rows_words(saved.dataset.rows), rows_words(dataset.identity.rows)
    if saved.data_settings != data_settings_digest(config):
        found.append(_data_settings(checkpoint, config))
    elif saved.dataset != dataset.identity:
        found.append(_told("dataset", *rows, change_words(compare(saved.dataset, dataset.train_digests)), config))
    return found + _measured_on(saved, config) + _tokenizer_differences(saved, config)


def _measured_on(saved: Identities, config: RunConfig) -> list[Difference]:
    """Other rows of --eval-dataset than before. (Those of --eval-fraction follow from the dataset and its settings.)"""
    if config.eval_dataset is None or saved.eval_dataset is None:
        return []
    now = identify(row_digests(eval_rows(config), Reading.of(config))[1])
    if now == saved.eval_dataset:
        return []
    before, asked = (
        n_("{count} row to measure on", "{count} rows to measure on", one.rows).format(count=one.rows)
        for one in (saved.eval_dataset, now)
    )
    reason = _("other rows than before: eval losses cannot be compared, the best is looked for anew")
    return [Difference("settings", before, asked, "asked", reason)]


def _tokenizer_differences(saved: Identities, config: RunConfig) -> list[Difference]:
    from engine.data.identity import template_digest, tokenizer_digest
    from engine.models.folder import load_tokenizer, tokenizer_files_digest
    from engine.models.templates import with_template

    folder = Path(config.model or "")
    if saved.tokenizer_files is None or not folder.is_dir():
        return []  # a hub id is identified when it is loaded
    if with_template(tokenizer_files_digest(folder), config.chat_template) == saved.tokenizer_files:
        return []
    tokenizer = load_tokenizer(folder, config.chat_template)
    now = tokenizer_digest(tokenizer), template_digest(tokenizer)
    found = []
    if now[0] != saved.tokenizer:
        words = _("The tokenizer turns text into other tokens than before.")
        found.append(_told("tokenizer", saved.tokenizer[:12], now[0][:12], words, config))
    if now[1] != saved.chat_template:
        words = _("The chat template was changed.")
        found.append(_told("chat_template", saved.chat_template[:12], now[1][:12], words, config))
    return found


RESTARTING = ("dataset", "tokenizer", "chat_template")
"""What makes other rows, and with their lengths another order of them: where a change of it is accepted, the epoch begins anew."""


def changed_rows(saved: Identities, now: Identities) -> tuple[str, ...]:
    """Of RESTARTING what is no longer as it was saved."""
    sides = [(one.dataset, one.data_settings) for one in (saved, now)]
    return tuple(name for name in RESTARTING if (
        sides[0] != sides[1] if name == "dataset" else getattr(saved, name) != getattr(now, name)
    ))  # fmt: skip


def _told(item: str, saved: str, asked: str, words: str, config: RunConfig) -> Difference:
    if item not in config.accept:
        return Difference(item, saved, asked, "neither", _("{words} Go on nevertheless with --accept {item}.").format(
            words=words, item=item))  # fmt: skip
    return Difference(item, saved, asked, "asked", f"{words} " + _("Accepted; the epoch starts anew over the new rows."))


def _data_settings(checkpoint: Checkpoint, config: RunConfig) -> Difference:
    """The settings of DATA_SETTINGS that differ, as far as the run's own run.toml tells; else the digests over all of them."""
    assert checkpoint.manifest is not None
    own = settings_beside(checkpoint)
    started = resolve([own]).config if own is not None else config
    differ = [name for name in DATA_SETTINGS if getattr(started, name) != getattr(config, name)]
    saved, asked = (", ".join(f"{name} {getattr(one, name)}" for name in differ) for one in (started, config))
    if not differ:
        saved, asked = checkpoint.manifest.identities.data_settings[:12], data_settings_digest(config)[:12]
    held_back = differ and all(name.startswith("eval_") for name in differ)
    words = _("Other rows are held back.") if held_back else _("Rows become other tokens.")
    return _told("dataset", saved, asked, words, config)


def precision_difference(checkpoint: Checkpoint, resolved: Resolved) -> list[Difference]:
    """Another number format than the saved one, where one was asked for; what `auto` finds is told by the receipt."""
    assert checkpoint.manifest is not None
    config, saved = resolved.config, checkpoint.manifest.precision
    asked = "4bit" if config.load_in_4bit else config.precision if resolved.asked("precision") else "auto"
    if asked in ("auto", saved):
        return []
    return [Difference("precision", saved, asked, "asked", _("the loss may differ in its last digits"))]


def schedule_differences(checkpoint: Checkpoint, config: RunConfig, length: Length) -> list[Difference]:
    """schedule: another kind, peak rate, warmup or number of steps than saved; and what that makes of the rate at the join."""
    assert checkpoint.manifest is not None
    saved = checkpoint.manifest.schedule
    was = (saved.scheduler, saved.learning_rate, saved.warmup_steps, saved.total_steps)
    now = (config.scheduler, config.learning_rate, warmup_steps(config, length.total_steps), length.total_steps)
    if was == now:
        return []
    rate = learning_rate_at(config, length.total_steps, checkpoint.manifest.steps_done)
    reason = _("the rate goes from {before:.3g} to {after:.3g} at the join").format(
        before=saved.next_learning_rate, after=rate
    )
    return [Difference("schedule", schedule_words(*was), schedule_words(*now), "asked", reason)]


def logged_schedule_difference(
    checkpoint: Checkpoint, saved: SavedRates, resolved: Resolved, config: RunConfig, length: Length
) -> list[Difference]:
    """schedule of another tool's run: told where the next learning rate is not the one that its scheduler would have given, and where
    what it logged and saved fits another kind as well."""
    now, known = learning_rate_at(config, length.total_steps, saved.step), logged_schedule(checkpoint)
    peak = _("peak {peak:.3g}").format(peak=saved.peak)
    words = schedule_words(
        config.scheduler, config.learning_rate, warmup_steps(config, length.total_steps), length.total_steps
    )
    if not math.isclose(now, saved.next, rel_tol=1e-6, abs_tol=1e-9 * saved.peak):
        named = any(resolved.asked(name) for name in ("scheduler", "learning_rate", "warmup", "epochs", "max_steps"))
        reason = _("the rate goes from {before:.3g} to {after:.3g} at the join").format(before=saved.next, after=now)
        if not named and known is None:
            reason = _("its kind is not known here, --scheduler names another; {what}").format(what=reason)
        return [Difference("schedule", peak, words, "asked" if named else "assumed", reason)]
    if known is None or resolved.asked("scheduler"):
        return []
    if known.others:
        reason = _("{kinds} would give what was logged as well; --scheduler names the right one")
        return [Difference("schedule", peak, words, "assumed", reason.format(kinds=", ".join(known.others)))]
    if known.may_fall:
        reason = _("{kind}, which falls at its end, would have given the same up to here; this one stays at its peak")
        return [Difference("schedule", peak, words, "assumed", reason.format(kind="warmup_stable_decay"))]
    return []


SETTINGS = (
    "weight_decay",
    "max_grad_norm",
    "lora_dropout",
    "logging_steps",
    "save_steps",
    "keep",
    "activation_checkpointing",
    "logits",
    "lora_kernel",
)
"""Settings that may change in the middle of a run and are told when they do; those of the schedule are told as such."""


def settings_differences(resolved: Resolved, checkpoint: Checkpoint) -> list[Difference]:
    """What was asked for this start and is not what the run was started with."""
    own = settings_beside(checkpoint)
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


def untold_settings(checkpoint: Checkpoint, resolved: Resolved) -> list[Difference]:
    """What another tool's run did and nothing that it saved tells for certain, or what is not done here: it goes on without, so a
    person must hear of it."""
    config, found = resolved.config, []
    if not resolved.asked("max_grad_norm"):
        reason = _(
            "nothing that was saved says at which norm it clipped gradients (--max-grad-norm names it), or whether it smoothed labels "
            "or added noise to embeddings, which is not done here"
        )
        found.append(Difference("settings", "-", f"max_grad_norm {config.max_grad_norm:g}", "assumed", reason))
    if checkpoint.eval_loss is not None and config.eval_dataset is None and not config.eval_fraction:
        saved = _("eval loss {loss}").format(loss=loss_words(checkpoint.eval_loss))
        reason = _("nothing that was saved says on which rows it was measured; --eval-dataset or --eval-fraction names some")
        found.append(Difference("settings", saved, _("no eval loss"), "assumed", reason))
    if stops_by_eval_loss(checkpoint.path / STATE_NAME):
        reason = _("it was to end, or had ended, where its eval loss no longer fell; this one ends at its last step")
        found.append(Difference("settings", "EarlyStoppingCallback", "-", "assumed", reason))
    return found


def weight_decay_difference(saved: float | None, config: RunConfig) -> list[Difference]:
    """Another weight decay than that of another tool's run, which its optimizer tells."""
    if saved is None or saved == config.weight_decay:
        return []
    was, now = (f"weight_decay {decay:g}" for decay in (saved, config.weight_decay))
    return [Difference("settings", was, now, "asked", _("it takes effect from the next step on"))]
