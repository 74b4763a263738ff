"""How many optimizer steps a run has, and the learning rate at each: plain arithmetic, known before anything loads.

The position of a run is kept in rows (manifest.Cursor), because steps mean something else as soon as the batch size changes.
So the length of a run is counted from where it stands: the steps done, plus those that the rest of its rows make with
the batch size of now. At an unchanged batch size this gives the same number wherever one counts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from engine.config import RunConfig
from engine.i18n import _, n_


@dataclass(frozen=True)
class Position:
    """Where a run stands. The start of a run is Position(0, 0, 0)."""

    step: int
    epoch: int
    """Whole epochs done."""
    rows_consumed: int
    """Rows done of the epoch that is under way."""
    given_up: float = 0.0
    """Epochs that were trained and do not count, since they were begun anew over other rows."""

    def begun_anew(self, rows: int) -> Position:
        """With the epoch under way begun anew; `rows`: how many it had."""
        return replace(self, rows_consumed=0, given_up=self.given_up + self.rows_consumed / rows)

    def epochs(self, rows: int) -> float:
        """Epochs done, with the fraction of the running one."""
        return self.epoch + self.rows_consumed / rows


def position_at(step: int, epoch: float, rows: int) -> Position:
    """Where a run of another tool stands in our order of `rows` rows, by the step and the epoch that it counts."""
    whole = math.floor(epoch + 1e-9)
    consumed = min(rows, round((epoch - whole) * rows))
    return Position(step, whole + 1, 0) if consumed == rows else Position(step, whole, consumed)


@dataclass(frozen=True)
class Length:
    """How long a run is, counted in full."""

    total_steps: int
    total_epochs: float
    steps_per_epoch: int


def run_length(config: RunConfig, rows: int, batch_rows: int, at: Position) -> Length:
    """The length of a run of `rows` rows an epoch that stands `at`, with `batch_rows` rows to an optimizer step.

    An epoch ends with its rows: its last step may be smaller. A fraction of an epoch is rounded up to whole steps.
    """
    per_epoch = math.ceil(rows / batch_rows)
    if config.max_steps is not None:
        ahead = max(0, config.max_steps - at.step)
        here = math.ceil((rows - at.rows_consumed) / batch_rows)
        if ahead <= here:
            done = min(rows, at.rows_consumed + ahead * batch_rows)
            return Length(max(config.max_steps, at.step), at.epoch + done / rows, per_epoch)
        full, rest = divmod(ahead - here, per_epoch)
        return Length(config.max_steps, at.epoch + 1 + full + min(rows, rest * batch_rows) / rows, per_epoch)
    whole = math.floor(config.epochs)
    last = math.ceil(round((config.epochs - whole) * per_epoch, 9))
    if whole == 0:
        last = max(1, last)  # no run is so short that it has no step
    if at.epoch < whole:
        ahead = math.ceil((rows - at.rows_consumed) / batch_rows) + (whole - at.epoch - 1) * per_epoch + last
    elif at.epoch == whole:
        ahead = max(0, math.ceil((min(rows, last * batch_rows) - at.rows_consumed) / batch_rows))
    else:
        ahead = 0
    return Length(at.step + ahead, max(config.epochs, at.epochs(rows)), per_epoch)


def warmup_steps(config: RunConfig, total_steps: int) -> int:
    """Steps of warmup: a share of the run below 1, but never all of it, for a run of one step would learn nothing; a number of steps
    from 1 on."""
    if config.warmup >= 1:
        return int(config.warmup)
    return min(math.ceil(config.warmup * total_steps), max(0, total_steps - 1))


def warmup_note(config: RunConfig, total_steps: int) -> str | None:
    """What to know of a warmup that lasts as long as the run or longer: its peak rate is never trained with."""
    warmup = warmup_steps(config, total_steps)
    if not 0 < total_steps <= warmup:
        return None
    return n_(
        "the warmup of {warmup} steps does not end within this run of {count} step: it never trains at the rate of {rate:g}",
        "the warmup of {warmup} steps does not end within this run of {count} steps: it never trains at the rate of {rate:g}",
        total_steps,
    ).format(warmup=warmup, count=total_steps, rate=config.learning_rate)


def learning_rate_at(config: RunConfig, total_steps: int, step: int) -> float:
    """The rate of the step after `step` steps are done.

    The formulas of transformers' get_linear/cosine/constant_schedule_with_warmup (optimization.py), which do the training.
    """
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return config.learning_rate * step / max(1, warmup)
    if config.scheduler == "constant":
        return config.learning_rate
    if config.scheduler == "linear":
        return config.learning_rate * max(0.0, (total_steps - step) / max(1, total_steps - warmup))
    progress = (step - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def save_interval(config: RunConfig, steps_per_epoch: int) -> int:
    """Steps between checkpoints. auto: four times an epoch and at least every 500 steps."""
    if config.save_steps != "auto":
        return int(config.save_steps)
    return max(1, min(500, math.ceil(steps_per_epoch / 4)))


def kept_geometry(rows: int, batch_size: int, world: int) -> tuple[int, int]:
    """(rows at a time, batches a step) with which `world` processes make steps of `rows` rows, or as near as they can, with no more
    than `batch_size` rows at a time each."""
    each = max(1, round(rows / world))
    at_a_time = max(size for size in range(1, min(batch_size, each) + 1) if each % size == 0)
    return at_a_time, each // at_a_time


def chosen_batch_size(config: RunConfig, rows: int, saved: int | None) -> tuple[int, str]:
    """Rows at a time on the device, and why. `saved`: what the continued run found (transformers 25956: it is kept)."""
    if config.batch_size != "auto":
        return min(int(config.batch_size), max(1, rows)), _("as set")
    if saved is not None:
        return saved, _("as the run was started with")
    size = max(1, min(8, rows))
    return size, _("8 rows is what LoRA usually trains well with") if size == 8 else _("all rows there are")
