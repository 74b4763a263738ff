"""The Journal (events.jsonl, C2): the record of a run on disk, and what reads it.

Append-only, a line an event, written with one write call and flushed, so that a killed process loses at most the line it was writing;
opening it again cuts off such a torn line. Attempts are numbered; `fold` keeps, of steps told twice, the later attempt's.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from engine.durable import open_plain_file, sync
from engine.events import (
    LOSS_JUMPED,
    CheckpointSaved,
    Event,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
    as_record,
)

JOURNAL_NAME = "events.jsonl"
MAX_LINE = 4 * 2**20
"""Bytes of a line that are read; an event has a few hundred."""


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
        self._started = False
        """Whether this attempt has started: who starts after it, in this process too, is the next one."""
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
            # Not pread, which POSIX alone has; what is written goes to the end in any case.
            os.lseek(self._file, start, os.SEEK_SET)
            block = os.read(self._file, end - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._file, end)

    def write(self, event: Event) -> dict[str, Any]:
        """Append `event`; returns its record. Where it cannot be written, `problem` says why."""
        if event.type == RunStarted.type:
            self.attempt += self._started
            self._started = True
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

    def close(self) -> None:
        """Make what was written durable and let go of the file. Where that fails, `problem` says why."""
        try:
            sync(self._file)
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


def last_join(folder: Path) -> int | None:
    """Step at which the last attempt in `folder` took over from a checkpoint; None where it began from nothing, or none is known."""
    step = None
    for record in read_journal(folder):
        if record["type"] == RunStarted.type:
            step = record.get("step") if record.get("checkpoint") is not None else None
    return step if isinstance(step, int) else None


def last_settings(folder: Path) -> Mapping[str, Any]:
    """What the last attempt in `folder` was started with, as it was told: for a person to read, not to be taken up unasked."""
    found: Any = None
    for record in read_journal(folder):
        if record["type"] == RunStarted.type:
            found = record.get("config")
    return found if isinstance(found, dict) else {}


def standing_attempts(records: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """What each attempt told of which steps stand, from its run_started on: later ones replace steps past their start, and one that
    did not come to a step (its receipt failed, it was killed) replaces nothing."""
    found: list[list[Mapping[str, Any]]] = []
    for record in records:
        if record["type"] == RunStarted.type:
            found.append([record])
        elif found:
            found[-1].append(record)
    standing: list[list[Mapping[str, Any]]] = []
    for told in found:
        if any(record["type"] in (Step.type, CheckpointSaved.type) for record in told):
            standing = [*(one for one in standing if begun_at(one) < begun_at(told)), told]
    return standing


def begun_at(attempt: Sequence[Mapping[str, Any]]) -> int:
    """The step that an attempt of `standing_attempts` took over at."""
    return attempt[0].get("step") or 0


def last_finish(folder: Path) -> int | None:
    """Step at which the run in `folder` last ended with all its steps done; None where it never did, or nothing tells."""
    found = [record.get("step") for record in read_journal(folder) if record["type"] == RunFinished.type]
    return found[-1] if found and isinstance(found[-1], int) else None


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
