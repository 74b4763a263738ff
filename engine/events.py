"""What happened, in the past tense: the one vocabulary of a run.

Whatever shows a run reads these: the headless printer, the training screen, `check`, the tests. An event says its own
numbers and nothing about where it is shown. The Journal (journal.py) keeps them.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from engine.redact import redact

JOURNAL_VERSION = 1
PARENT_GONE = "parent_gone"
"""RunStopped.reason of a run whose processes lost whoever had started them."""
VERDICTS = ("ok", "changed", "failed", "unknown")
"""Of an item of a receipt."""
JUMPS = ("reset_at_resume", "spike", "divergence", "non_finite")
"""LossJumped.kind."""
LOSS_JUMPED = "loss_jumped"
"""RunStopped.reason where the loss left its path and --on-jump ended the run."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    type: ClassVar[str]


@dataclass(frozen=True)
class RunStarted(Event):
    """An attempt begins: a fresh run, or the continuation of one."""

    type: ClassVar[str] = "run_started"
    run_id: str
    output_dir: str
    checkpoint: str | None
    """The checkpoint continued from; None for a fresh start."""
    step: int
    epoch: float
    total_steps: int
    total_epochs: float
    rows: int
    trained_tokens: int
    """Tokens of one epoch that the loss counts."""
    choices: Mapping[str, str]
    """What was chosen automatically, each with its reason: device, precision, batch size, ..."""
    config: Mapping[str, Any]
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True)
class RowsTokenised(Event):
    """Rows are being turned into tokens, before the run begins. Told now and then, and never written to the Journal."""

    type: ClassVar[str] = "rows_tokenised"
    rows: int
    total: int | None
    """None: how many there are is not known before they are read."""
    seconds: float


@dataclass(frozen=True)
class ResumeChecked(Event):
    """The receipt (C5): what was really restored, before the first optimizer step."""

    type: ClassVar[str] = "resume_checked"
    checkpoint: str
    items: tuple[Mapping[str, Any], ...]
    """Each {"item", "expected", "found", "verdict", "detail"}; the verdict one of VERDICTS."""


@dataclass(frozen=True)
class Step(Event):
    """The loss was logged: the mean over the steps since the last one."""

    type: ClassVar[str] = "step"
    step: int
    epoch: float
    loss: float | None
    """None: not finite."""
    learning_rate: float
    grad_norm: float | None
    tokens: int
    """Tokens seen since the run began, padding not counted."""
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated(Event):
    """The held-back rows were scored."""

    type: ClassVar[str] = "evaluated"
    step: int
    epoch: float
    eval_loss: float | None
    seconds: float


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint was committed: from now on a kill does not lose it."""

    type: ClassVar[str] = "checkpoint_saved"
    checkpoint: str
    step: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    bytes: int
    seconds: float
    """From the end of the step until the rename was durable."""
    removed: tuple[str, ...] = ()
    """Checkpoints that retention took away after it."""


@dataclass(frozen=True)
class LossJumped(Event):
    """The loss left the path it was on (LossMonitor)."""

    type: ClassVar[str] = "loss_jumped"
    step: int
    kind: str
    """One of JUMPS."""
    before: float | None
    """The level the loss had; None where there was no loss above zero before."""
    after: float | None
    ratio: float | None
    at_resume: bool
    good_until: int | None = None
    """The last logged step at which the loss was still on its path; None where there was none."""
    checkpoint: str | None = None
    """The furthest checkpoint saved up to `good_until`: where to go back to."""
    causes: tuple[str, ...] = ()
    """What may lie behind it, the likeliest first."""


@dataclass(frozen=True)
class RolledBack(Event):
    """After a jump the run went back to where the loss was good; the next attempt goes on from there (--on-jump rollback)."""

    type: ClassVar[str] = "rolled_back"
    step: int
    """Where it stood."""
    checkpoint: str | None
    """Where it goes on from; None: from the start."""
    to_step: int
    learning_rate: float
    """The peak rate from now on: half of what it was."""
    number: int
    """How often it has gone back by now, from 1."""
    set_aside: tuple[str, ...]
    """Checkpoints from after `to_step`; they lie in the folder's .trash."""


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know that does not stop the run."""

    type: ClassVar[str] = "warned"
    code: str
    message: str


@dataclass(frozen=True)
class RunFinished(Event):
    """All steps were done."""

    type: ClassVar[str] = "run_finished"
    step: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    seconds: float
    adapter: str
    """Folder of the final adapter."""
    advice: Mapping[str, str]
    """{"state", "message"}."""


@dataclass(frozen=True)
class RunFailed(Event):
    """The run ended with an error."""

    type: ClassVar[str] = "run_failed"
    step: int | None
    title: str
    detail: str
    fix: str
    exit_code: int


@dataclass(frozen=True)
class RunStopped(Event):
    """A person or a signal asked the run to stop; it saved first."""

    type: ClassVar[str] = "run_stopped"
    step: int
    epoch: float
    reason: str
    checkpoint: str | None
    """The checkpoint that continuing will start from."""
    epochs_left: float | None = None
    loss: float | None = None
    """The last that was logged."""
    advice: Mapping[str, str] | None = None
    """As of RunFinished; None where nothing was trained, and in journals of before."""


def as_record(event: Event, attempt: int, now: float) -> dict[str, Any]:
    """`event` as the JSON object of C2. Numbers that are not finite become null, access tokens ***."""
    record: dict[str, Any] = _plain(
        {"v": JOURNAL_VERSION, "t": round(now, 3), "attempt": attempt, "type": event.type, **asdict(event)}
    )
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
