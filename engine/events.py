"""What happened, in the past tense: the one vocabulary of a run, and the Journal that keeps it.

Whatever shows a run reads these: the headless printer, the training screen, `check`, the tests. An event says its own
numbers and nothing about where it is shown. The Journal (events.jsonl, C2) is append-only, a line an event, written with one
write call and flushed, so that a killed process loses at most the line it was writing; opening it again cuts off such a torn
line. Attempts are numbered; `fold` keeps, of steps told twice, the later attempt's.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

JOURNAL_VERSION = 1
JOURNAL_NAME = "events.jsonl"


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
    """Each {"item", "expected", "found", "verdict": ok|changed|failed|unknown, "detail"}."""


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
    """reset_at_resume | spike | divergence | non_finite."""
    before: float
    """The level the loss had."""
    after: float | None
    ratio: float | None
    at_resume: bool


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


Emit = Callable[[Event], None]


def as_record(event: Event, attempt: int, now: float) -> dict[str, Any]:
    """`event` as the JSON object of C2. Numbers that are not finite become null."""
    record: dict[str, Any] = _finite(
        {"v": JOURNAL_VERSION, "t": round(now, 3), "attempt": attempt, "type": event.type, **asdict(event)}
    )
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Journal:
    """The append-only record of a run. One writer at a time (the run's lock sees to that)."""

    def __init__(self, folder: Path) -> None:
        """Open or create `folder`/events.jsonl, dropping a torn last line. Raises OSError."""
        self.path = folder / JOURNAL_NAME
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._cut_torn_line()
        self.attempt = 1 + sum(1 for record in read_journal(folder) if record["type"] == RunStarted.type)

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        end = size
        while end:
            start = max(0, end - 65_536)
            block = os.pread(self._file, end - start, start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._file, end)

    def write(self, event: Event) -> dict[str, Any]:
        """Append `event`; returns the record as written."""
        record = as_record(event, self.attempt, time.time())
        os.write(self._file, (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
        return record

    def close(self) -> None:
        """Make what was written durable and let go of the file."""
        os.fsync(self._file)
        os.close(self._file)


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of `folder`/events.jsonl, oldest first; none where there is no journal.

    A line that is no JSON object with a type (torn, foreign, damaged) is passed over: the journal tells, it does not decide.
    """
    try:
        file = open(folder / JOURNAL_NAME, "rb")  # noqa: SIM115 - the with below closes it
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("type"), str):
                yield record


def fold(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of a run as if it had never been interrupted, in order of step.

    A continued attempt starts at the step of its checkpoint; what earlier attempts told of later steps never became part of
    the run and is replaced.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    start: int | None = None
    for record in records:
        if record["type"] == RunStarted.type:
            start = int(record.get("step", 0))
        elif record["type"] == Step.type:
            if start is not None:  # only an attempt that did a step replaces anything
                steps, start = {step: row for step, row in steps.items() if step <= start}, None
            steps[int(record["step"])] = record
    return [steps[step] for step in sorted(steps)]
