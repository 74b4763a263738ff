"""trainer_state.json: how far a run had come and what its loss was on the way.

Written by every Hugging Face Trainer, last of all files, so it is the first to be missing. What ranking rests on, step and epoch,
is taken only where it is exactly what Trainer writes; the rest may be unknown, for real files do hold NaN, null and gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.checkpoint import LogRow
from engine.checkpoints.files import Unsound, count, number, read_json
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
    history: tuple[LogRow, ...]
    log_keys: frozenset[str]
    """Every key of any log row; they tell which trainer wrote it."""
    batch_size: int | None
    """Rows at a time on a device (train_batch_size)."""


def read_state(path: Path) -> TrainerState:
    """The state in the file `path`. Raises Unsound."""
    return parse_state(read_json(path))


def parse_state(raw: dict[str, Any]) -> TrainerState:
    """The state that the parsed file holds. Raises Unsound where step or epoch are not what Trainer writes."""
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
    rows = raw.get("log_history", [])
    if not isinstance(rows, list):
        raise Unsound("history_invalid", _("{name}: log_history is not a list.").format(name=STATE_NAME))
    rows = [row for row in rows if isinstance(row, dict)]
    total = number(raw.get("num_train_epochs"))
    return TrainerState(
        step=step,
        epoch=epoch,
        max_steps=count(raw.get("max_steps")) or None,
        total_epochs=total if total is not None and 0 < total < ENDLESS else None,
        history=tuple(_row(row) for row in rows if count(row.get("step")) is not None),
        log_keys=frozenset(key for row in rows for key in row),
        batch_size=count(raw.get("train_batch_size")) or None,
    )


def _row(row: dict[str, Any]) -> LogRow:
    return LogRow(
        step=row["step"],
        epoch=number(row.get("epoch")),
        loss=number(row.get("loss")),
        eval_loss=number(row.get("eval_loss")),
        learning_rate=number(row.get("learning_rate")),
    )


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
