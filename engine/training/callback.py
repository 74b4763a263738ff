"""Listens to the Trainer and tells what happened; asks between steps whether to stop; checks the receipt before the first.

Imports transformers at its top, for its base class: import it only where training starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from engine.checkpoints.retain import good
from engine.config import RunConfig
from engine.course.advice import has_reached, likely_causes
from engine.course.monitor import LOGS_AT_JOIN, LossMonitor
from engine.events import Evaluated, Event, LossJumped, Step
from engine.training.saving import Saver
from engine.training.sft import ExactTrainer

LOGS_KEPT = 8192
"""Entries of TrainerState.log_history, at most."""
ANSWERED = ("reset_at_resume", "divergence", "non_finite")
"""Jumps that --on-jump stop and rollback answer. A spike recovers, or becomes a divergence."""


@dataclass
class RunCallback(TrainerCallback):
    """The run's ear in the Trainer's loop."""

    config: RunConfig
    tell: Callable[[Event], None]
    should_stop: Callable[[], str | None]
    monitor: LossMonitor
    continued: bool
    begin: Callable[[ExactTrainer], None] = lambda trainer: None
    """Called before the first step, after everything is loaded; may raise."""
    loaded: Callable[[], None] = lambda: None
    """Called when nothing of the checkpoint will be read any more: before each step, the random states being the last."""
    trainer: ExactTrainer = field(init=False)
    saver: Saver = field(init=False)
    stopped_by: str | None = None
    jump: LossJumped | None = None
    """The jump that ends this attempt (--on-jump stop or rollback)."""
    verdicts: Mapping[str, str] | None = None
    """The receipt of a continued run, item -> verdict."""
    last_rate: float | None = None
    """Learning rate of the last log; right after a join, of the last one before it."""
    eval_losses: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_ignored: Any) -> None:
        """Everything is loaded, nothing trained yet."""
        self.begin(self.trainer)
        self._joined_logs = 0
        self._last_time, self._last_tokens = time.monotonic(), float(self.trainer._total_train_tokens)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_ignored: Any) -> None:
        """The first step is about to be computed: everything has been read."""
        self.loaded()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_ignored: Any) -> None:
        """The position moves on; this is the one place where a run may stop."""
        self.trainer.advance()
        state.epoch = self.trainer.epochs
        if state.global_step >= state.max_steps:
            control.should_log = (
                True  # else a run shorter than its logging steps ends without a loss, and another without its last
            )
        self.saver.poll()
        reason = self.should_stop()
        if reason and not control.should_training_stop:
            self.stopped_by = reason
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Mapping[str, Any], **_ignored: Any
    ) -> None:
        """A loss was logged: tell it, and let the monitor judge it."""
        thin(state.log_history)
        if "loss" not in logs:
            return
        now, tokens = time.monotonic(), float(logs.get("num_tokens", self._last_tokens))
        speed = (tokens - self._last_tokens) / max(now - self._last_time, 1e-9)
        self._last_time, self._last_tokens = now, tokens
        loss = _finite(logs["loss"])
        rate = float(logs["learning_rate"])
        self.saver.last_loss = loss
        if loss is not None:
            self.losses.append(loss)
        self.tell(
            Step(
                state.global_step,
                self.trainer.epochs,
                loss,
                rate,
                _finite(logs.get("grad_norm")),
                int(tokens),
                round(speed, 1),
            )
        )
        self._joined_logs += 1
        at_resume = self.continued and self._joined_logs <= LOGS_AT_JOIN
        jump = self.monitor.observe(state.global_step, float(logs["loss"]), at_resume)
        if jump is not None:
            self._jumped(jump, rate, control)
        elif has_reached(self.losses, self.config.stop_at_loss) and not control.should_training_stop:
            control.should_save = control.should_training_stop = True
        if not at_resume:
            self.last_rate = rate

    def _jumped(self, jump: LossJumped, rate: float, control: TrainerControl) -> None:
        kept = good(self.saver.committer.kept, jump.good_until)
        causes = likely_causes(jump.kind, self.verdicts, rate, self.last_rate)
        jump = replace(jump, checkpoint=kept.name if kept is not None else None, causes=causes)
        self.tell(jump)
        if self.config.on_jump != "warn" and jump.kind in ANSWERED and self.jump is None:
            self.jump, control.should_training_stop = jump, True
            # What was trained up to here is saved into the trash, so that even a false alarm loses nothing. A loss that is no number
            # has left nothing worth it.
            self.saver.aside, control.should_save = True, jump.kind != "non_finite"

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Mapping[str, Any], **_ignored: Any
    ) -> None:
        """The held-back rows were scored."""
        loss = _finite(metrics.get("eval_loss"))
        if loss is not None:
            self.eval_losses.append(loss)
            self.saver.eval_losses[state.global_step] = loss
        self.tell(Evaluated(state.global_step, self.trainer.epochs, loss, float(metrics.get("eval_runtime", 0.0))))
        self._last_time = time.monotonic()


def thin(history: list[Any]) -> None:
    """Halve the older half of `history` where it has grown beyond LOGS_KEPT, in place.

    It goes into every checkpoint's trainer_state.json as a whole: at 100,000 logs each save wrote 17 MB of it. What was logged last is
    all there; the whole stands in the Journal. It depends on nothing but what was logged, so a continued run has the same.
    """
    if len(history) > LOGS_KEPT:
        older = history[: len(history) // 2]
        history[: len(older)] = older[::2]


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None
