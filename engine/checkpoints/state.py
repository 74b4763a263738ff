"""trainer_state.json: how far a run had come and what its loss was on the way.

Written by every Hugging Face Trainer, last of all files, so it is the first to be missing. What ranking rests on, step and epoch,
is taken only where it is exactly what Trainer writes; the rest may be unknown, for real files do hold NaN, null and gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoints.checkpoint import ROUNDED, LogRow, Problem
from engine.checkpoints.files import Unsound, count, number, parse_json, read_bounded, read_json
from engine.checkpoints.trainer_log import KEY, Log, keep_log, known_log, log_of, stands_in
from engine.i18n import _

STATE_NAME = "trainer_state.json"
ENDLESS = 1e9
"""More epochs than this is Trainer's way to say that the dataset has no length (it writes sys.maxsize)."""


@dataclass(frozen=True)
class TrainerState:
    """What trainer_state.json says."""

    step: int
    epoch: float | None
    max_steps: int | None
    total_epochs: float | None
    log: Log
    batch_size: int | None
    """Rows at a time on a device (train_batch_size)."""
    doubt: Problem | None = None
    """Why it cannot have stood at an epoch where it says; the epoch is None then."""

    @property
    def history(self) -> tuple[LogRow, ...]:
        return self.log.rows


def read_state(path: Path) -> TrainerState:
    """The state in the file `path`. Raises Unsound."""
    data = read_bounded(path)
    known = known_log(data)
    if known is not None:
        try:
            raw = parse_json(known[0], path.name)
        except Unsound:  # to be told of the file as it is
            raw = {}
        if stands_in(raw.get(KEY)):
            return _state(raw, known[1])
    raw = parse_json(data, path.name)
    state = parse_state(raw)
    keep_log(data, raw.get(KEY, []), state.log)
    return state


def parse_state(raw: dict[str, Any]) -> TrainerState:
    """The state that the parsed file holds. Raises Unsound where step or epoch are not what Trainer writes."""
    rows = raw.get(KEY, [])
    if not isinstance(rows, list):
        raise Unsound("history_invalid", _("{name}: log_history is not a list.").format(name=STATE_NAME))
    return _state(raw, log_of(rows))


def _state(raw: dict[str, Any], log: Log) -> TrainerState:
    step = count(raw.get("global_step"))
    if step is None:
        raise Unsound(
            "step_invalid",
            _("{name}: global_step is {value}, not a whole number from 0 on.").format(
                name=STATE_NAME, value=_short(raw.get("global_step"))
            ),
        )
    epoch = number(raw.get("epoch"))
    if (epoch is None and raw.get("epoch") is not None) or (epoch is not None and epoch < 0):
        raise Unsound(
            "epoch_invalid",
            _("{name}: epoch is {value}, not a number from 0 on.").format(name=STATE_NAME, value=_short(raw.get("epoch"))),
        )
    total = number(raw.get("num_train_epochs"))
    total = total if total is not None and 0 < total < ENDLESS else None
    most = count(raw.get("max_steps")) or None
    doubt = _doubt(step, epoch, most, total)
    return TrainerState(
        step=step,
        epoch=epoch if doubt is None else None,
        max_steps=most,
        total_epochs=total,
        log=log,
        batch_size=count(raw.get("train_batch_size")) or None,
        doubt=doubt,
    )


def _doubt(step: int, epoch: float | None, most: int | None, total: float | None) -> Problem | None:
    """Why a run that has done `step` steps of at most `most` cannot stand at `epoch` of `total`; None where it can. Ranking rests on
    the epoch, so one that is nonsense would come before all that are sound. A step never goes past the end of an epoch."""
    if epoch is None:
        words = _("{name} says step {step} and no epoch: where in the data it stood is not known.")
        told = Problem("epoch_unknown", words.format(name=STATE_NAME, step=step))
    elif epoch > step + ROUNDED or (step and not epoch):
        words = _("{name}: after {step} steps a run cannot be at epoch {epoch:.6g}.")
        told = Problem("epoch_impossible", words.format(name=STATE_NAME, step=step, epoch=epoch))
    elif total is not None and most is not None and step <= most and epoch > total * (1 + ROUNDED) + ROUNDED:
        words = _("{name}: a run of {total:.6g} epochs and {most} steps cannot be at epoch {epoch:.6g} after {step} steps.")
        told = Problem("epoch_impossible", words.format(name=STATE_NAME, total=total, most=most, epoch=epoch, step=step))
    else:
        return None
    return replace(
        told, fix=_("Continue from an earlier checkpoint, or start a new run from these weights with --init-from.")
    )


def stops_by_eval_loss(path: Path) -> bool:
    """Whether the run whose state the file `path` is was watched by Trainer's EarlyStoppingCallback; of a file that cannot be read,
    and of older versions, which wrote down no callbacks, nothing is known."""
    try:
        callbacks = read_json(path).get("stateful_callbacks")
    except (Unsound, OSError):
        return False
    return isinstance(callbacks, dict) and "EarlyStoppingCallback" in callbacks


def last_loss(history: Sequence[LogRow], step: int) -> float | None:
    """The training loss logged last at or before `step`. The last rows are often an evaluation or the summary."""
    return next((row.loss for row in reversed(history) if row.loss is not None and row.step <= step), None)


def last_eval_loss(history: Sequence[LogRow], step: int) -> float | None:
    """The eval loss measured last at or before `step`."""
    return next((row.eval_loss for row in reversed(history) if row.eval_loss is not None and row.step <= step), None)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value) if not isinstance(value, int) else _digits(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 128 else _("a number of {bits} bits").format(bits=value.bit_length())
