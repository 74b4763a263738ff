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
from engine.checkpoints.files import Unsound, count, number, parse_json, read_bounded
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
    return TrainerState(
        step=step,
        epoch=epoch,
        max_steps=count(raw.get("max_steps")) or None,
        total_epochs=total if total is not None and 0 < total < ENDLESS else None,
        log=log,
        batch_size=count(raw.get("train_batch_size")) or None,
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
