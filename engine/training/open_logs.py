"""The logging window that is open when a checkpoint is saved: what `--logging-steps 10` has added up at step 13.

It goes into the manifest and is taken up again, so that the next logged loss is that of a run which was never stopped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.checkpoints.files import number
from engine.checkpoints.manifest import LogState, Manifest

if TYPE_CHECKING:
    from engine.training.ranks import Ranks
    from engine.training.sft import ExactTrainer


def kept_logs(trainer: ExactTrainer) -> LogState:
    """The logging window that is open, for `restore_logs`."""
    return LogState(
        loss_sum=number(float(trainer._tr_loss)),
        last_logged_step=trainer._globalstep_last_logged,
        metrics={key: [number(float(value)) for value in values] for key, values in trainer._metrics["train"].items()},
        tokens=int(trainer._total_train_tokens),
    )


def restore_logs(trainer: ExactTrainer, manifest: Manifest, ranks: Ranks) -> None:
    """Take up the window that was open when saving. Other processes than those that saved it go on from the mean of theirs, since the
    mean is what is logged."""
    logs = manifest.logs
    sums = [_or_nan(one) for one in (logs.loss_sum, *(other.loss_sum for other in manifest.others))]
    trainer._tr_loss.fill_(sums[ranks.rank] if len(sums) == ranks.world else sum(sums) / len(sums))
    trainer._globalstep_last_logged = logs.last_logged_step
    trainer._total_train_tokens = logs.tokens
    for key, values in logs.metrics.items():
        trainer._metrics["train"][key] = [_or_nan(value) for value in values]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
