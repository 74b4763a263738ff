"""What the monitor knew when a checkpoint was saved, and the jumps in a finished log as it would have told them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.checkpoints.checkpoint import Checkpoint, LogRow
from engine.course.monitor import LOGS_AT_JOIN, LossMonitor
from engine.events import LossJumped


def monitor_of(checkpoint: Checkpoint) -> LossMonitor:
    """The monitor as it was when `checkpoint` was saved: by the state in its manifest, else by its log."""
    monitor = LossMonitor()
    if checkpoint.manifest is not None:
        try:
            monitor.restore(checkpoint.manifest.monitor)
            return monitor
        except ValueError:  # no state of this kind of monitor
            pass
    monitor, _jumps = replayed(checkpoint.history)
    monitor.leave_join()
    return monitor


def jumps_in(history: Sequence[LogRow]) -> list[LossJumped]:
    """The jumps in a finished log."""
    return replayed(history)[1]


def replayed(history: Sequence[LogRow]) -> tuple[LossMonitor, list[LossJumped]]:
    """The monitor after it has seen a finished log, and the jumps in it. Where a run was continued is not written there: the epoch
    going back, or the learning rate leaping up after it had fallen, are taken for a join."""
    monitor, found = LossMonitor(), []
    rows = [row for row in history if row.loss is not None or (row.learning_rate is not None and row.eval_loss is None)]
    since_join = LOGS_AT_JOIN
    peak = 0.0
    before: LogRow | None = None
    for row in rows:
        since_join += 1
        if before is not None and _joined(before, row, peak):
            since_join, peak = 0, 0.0
        peak = max(peak, row.learning_rate or 0.0)
        loss = row.loss if row.loss is not None else math.nan
        jump = monitor.observe(row.step, loss, since_join < LOGS_AT_JOIN)
        if jump is not None:
            found.append(jump)
        before = row
    return monitor, found


def _joined(before: LogRow, row: LogRow, peak: float) -> bool:
    if before.epoch is not None and row.epoch is not None and row.epoch < before.epoch - 1e-6:
        return True
    if before.learning_rate is None or row.learning_rate is None:
        return False
    return before.learning_rate < 0.9 * peak and row.learning_rate > max(2 * before.learning_rate, 0.05 * peak)
