"""What happened, in the past tense: the one vocabulary of a run, and the Journal that keeps it.

Whatever shows a run reads these: the headless printer, the training screen, `check`, the tests. An event says its own
numbers and nothing about where it is shown. The Journal (events.jsonl, C2) is append-only, a line an event, written with one
write call and flushed, so that a killed process loses at most the line it was writing; opening it again cuts off such a torn
line. Attempts are numbered; `fold` keeps, of steps told twice, the later attempt's.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from engine.checkpoints.durable import open_plain_file
from engine.redact import redact

JOURNAL_VERSION = 1
JOURNAL_NAME = "events.jsonl"
MAX_LINE = 4 * 2**20
"""Bytes of a line that are read; an event has a few hundred."""
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
    before: float
    """The level the loss had."""
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
    """The how manieth time, from 1."""
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


class Journal:
    """The append-only record of a run. One writer at a time (the run's lock sees to that).

    It tells of a run and does not decide over it: where the disk takes no more, events are counted instead of written, the run goes
    on (or stops, when a checkpoint cannot be saved), and the journal says how many are missing as soon as it can.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create `folder`/events.jsonl, dropping a torn last line. Raises OSError."""
        self.path = folder / JOURNAL_NAME
        self._file = open_plain_file(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._cut_torn_line()
        self.problem: OSError | None = None
        """Why the newest event could not be written; None: it was."""
        self._missing = 0
        self._torn = False
        self.attempt = 1
        self.rolled_back = 0
        """How often the run went back after a jump (RolledBack), since it last came to an end of its own."""
        self.cut_off: int | None = None
        """The step at which the attempt before ended without a word: it was killed, or the machine went down. None: it said how
        it ended, or there was none."""
        for record in read_journal(folder):
            if record["type"] == RunStarted.type:
                self.attempt += 1
            if record["type"] in (RunStarted.type, Step.type):
                self.cut_off = record.get("step") or 0
            elif record["type"] in (RunFinished.type, RunFailed.type, RunStopped.type):
                self.cut_off = None
            if record["type"] == RolledBack.type:
                self.rolled_back += 1
            elif record["type"] == RunFinished.type or record.get("reason") == LOSS_JUMPED:
                self.rolled_back = 0

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
        """Append `event`; returns its record. Where it cannot be written, `problem` says why."""
        record = as_record(event, self.attempt, time.time())
        try:
            if self._missing:
                words = f"{self._missing} events could not be written here: {self.problem}"
                self._append(as_record(Warned("journal_gap", words), self.attempt, time.time()))
                self._missing = 0
            self._append(record)
            self.problem = None
        except OSError as error:
            self._missing += 1
            self.problem = error
        return record

    def _append(self, record: Mapping[str, Any]) -> None:
        # Escaped to ASCII: whoever looks at the file with `cat` must not have the cursor moved by a name in it.
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._file, line)
        if written == len(line):
            self._torn = False
            return
        try:  # a short write: the disk is full in the middle of the line
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
        except OSError:
            self._torn = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def next_attempt(self) -> None:
        """What is written from now on belongs to another attempt of the same process."""
        self.attempt += 1

    def close(self) -> None:
        """Make what was written durable and let go of the file. Where that fails, `problem` says why."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self.problem = error
        finally:
            os.close(self._file)


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of `folder`/events.jsonl, oldest first; none where there is no journal.

    A line that is no event (torn, foreign, damaged, endless) is passed over: the journal tells, it does not decide. Nor is a
    journal that cannot be read at all, or is no plain file, an error here; `Journal` refuses to write to it.
    """
    try:
        file = os.fdopen(open_plain_file(folder / JOURNAL_NAME, os.O_RDONLY), "rb")
    except OSError:
        return
    with file:
        for line in _lines(file):
            record = record_of(line)
            if record is not None:
                yield record


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record that a line of a journal holds; None where it is no event."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if _is_event(record) else None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file` that are no longer than MAX_LINE, in bounded memory."""
    whole = True
    while part := file.readline(MAX_LINE):
        ends = part.endswith(b"\n")
        if whole and (ends or len(part) < MAX_LINE):
            yield part
        whole = ends


def _is_event(record: Any) -> bool:
    """Whether what others compute with has the type that an event gives it: the file may have been edited, or be a stranger's."""
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return False
    if record.get("step") is not None and not _whole(record["step"]):
        return False
    return all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300)
        for name, value in record.items()
        if name in _NUMBERS
    )


_NUMBERS = frozenset({"t", "attempt", "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens",
                      "tokens_per_second", "total_steps", "total_epochs", "seconds", "bytes", "before", "after", "ratio"})  # fmt: skip


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def fold(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of a run as if it had never been interrupted, in order of step.

    A continued attempt starts at the step of its checkpoint; what earlier attempts told of later steps never became part of
    the run and is replaced.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    start: int | None = None
    for record in records:
        if record["type"] == RunStarted.type:
            start = record.get("step") or 0
        elif record["type"] == Step.type and record.get("step") is not None:
            if start is not None:  # only an attempt that did a step replaces anything
                steps, start = {step: row for step, row in steps.items() if step <= start}, None
            steps[record["step"]] = record
    return [steps[step] for step in sorted(steps)]
