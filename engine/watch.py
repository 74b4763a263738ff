"""How a run stands, by what lies in its folder: the Journal, the lock, and nothing else.

Whoever watches needs no connection to the process: a run tells everything to its Journal and holds its folder's lock as long as it
lives. So a run can be watched from another terminal, after its own has closed, from another machine on a shared folder, or when it
ended long ago, all in one way. A run whose lock is free and whose Journal has no last word died without one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from engine.checkpoints.checkpoint import LogRow
from engine.checkpoints.inspect import glimpse
from engine.checkpoints.scan import glance
from engine.durable import open_plain_file
from engine.errors import LoraTuiError
from engine.events import (
    JUMPS,
    VERDICTS,
    Event,
    LossJumped,
    ResumeChecked,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
    as_record,
)
from engine.folder import FINAL, RUN_TOML, own_start
from engine.i18n import _
from engine.journal import JOURNAL_NAME, MAX_LINE, read_journal, record_of
from engine.lock import Holder, holder_of, is_held
from engine.paths import as_argument, is_file, is_folder
from engine.submit import beside, is_sent_again

LOOK = 0.5
"""Seconds between two looks at a journal."""
ENDINGS = (RunFinished.type, RunStopped.type, RunFailed.type)

Told = tuple[Event, Mapping[str, Any]]
"""An event and the record it was read from."""


@cache
def _readers() -> dict[str, Any]:
    from pydantic import TypeAdapter

    return {kind.type: TypeAdapter(kind) for kind in Event.__subclasses__()}


def event_of(record: Mapping[str, Any]) -> Event | None:
    """The event that `record` was made from (events.as_record); None where it is none that this version knows, or does not hold what
    such an event holds."""
    from pydantic import ValidationError

    reader = _readers().get(str(record.get("type")))
    if reader is None:
        return None
    try:
        event: Event = reader.validate_python(
            {key: value for key, value in record.items() if key not in ("v", "t", "attempt", "type")}
        )
    except ValidationError:
        return None
    return event if _has_what_is_shown(event) else None


def _has_what_is_shown(event: Event) -> bool:
    """Whether the words that a screen looks up are known: the file may be damaged, or a newer version's."""
    match event:
        case ResumeChecked():
            names = {"item", "expected", "found", "verdict", "detail"}
            return all(names <= item.keys() and item["verdict"] in VERDICTS for item in event.items)
        case LossJumped():
            return event.kind in JUMPS
        case RunFinished():
            return {"state", "message"} <= event.advice.keys()
        case RunStopped():
            return event.advice is None or {"state", "message"} <= event.advice.keys()
    return True


class Tail:
    """Reads a journal as it grows, each record once. A last line without its end is left until it has one; a journal that was replaced
    or cut (rotated, copied back) is read to its end and then from the new beginning; one that is not there yet is waited for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self._file: int | None = None
        self._at = 0
        """Bytes of whole lines that were read."""

    def new(self) -> Iterator[dict[str, Any]]:
        """What was appended since the last call."""
        while self._open():
            yield from self._lines()
            if self._is_the_same():
                return
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._at = None, 0

    def _open(self) -> bool:
        if self._file is None:
            with contextlib.suppress(OSError):
                self._file = open_plain_file(self.path, os.O_RDONLY)
        return self._file is not None

    def _is_the_same(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), os.lstat(self.path))
        except OSError:
            return True  # it is gone, or out of reach for a moment: what is open is all there is

    def _lines(self) -> Iterator[dict[str, Any]]:
        assert self._file is not None
        while True:
            with contextlib.suppress(OSError):  # a network folder that does not answer now
                if os.fstat(self._file).st_size < self._at:
                    self._at = 0
                block = os.read(self._file, MAX_LINE) if os.lseek(self._file, self._at, os.SEEK_SET) >= 0 else b""
                end = block.rfind(b"\n") + 1 or (MAX_LINE if len(block) == MAX_LINE else 0)
                if end:
                    self._at += end
                    for line in block[:end].split(b"\n"):
                        record = record_of(line) if line else None
                        if record is not None:
                            yield record
                    continue
            return


State = Literal["running", "finished", "stopped", "failed", "died", "empty"]
"""running: its lock is held; died: it is free and there was no last word; empty: its journal tells nothing, or is not there."""


@dataclass(frozen=True)
class Standing:
    """How the run in a folder stands, or how its last attempt ended."""

    folder: Path
    state: State
    run_id: str | None = None
    attempts: int = 0
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    began: float | None = None
    """Seconds of the Unix epoch at which the last attempt began."""
    told: float | None = None
    """... at which the journal spoke last."""
    host: str | None = None
    """The machine on which the last attempt began; journals of before do not tell."""
    why: str = ""
    """stopped: the reason; failed: the error."""
    exit_code: int | None = None
    """failed: the code it ended with."""
    holder: Holder | None = None
    """Which process, where: of a running run, and of one that died."""


def standing(folder: Path) -> Standing:
    """How the run in `folder` stands. Reads the journal once, in bounded memory."""
    held = is_held(folder)  # asked first: what a run tells before it lets go is in the journal read after
    holder = holder_of(folder)
    known: dict[str, Any] = {}
    attempts, last = 0, None
    for record in read_journal(folder):
        if record["type"] == RunStarted.type:
            attempts += 1
            known |= {"total_steps": record.get("total_steps"), "began": record.get("t")}
            texts = {name: record.get(name) for name in ("run_id", "host")}
            known |= {name: text if isinstance(text, str) else None for name, text in texts.items()}
        if record["type"] in (RunStarted.type, Step.type, *ENDINGS):
            known |= {name: record[name] for name in ("step", "epoch", "loss") if record.get(name) is not None}
            last = record
        known["told"] = record.get("t")
    if held:
        return Standing(folder, "running", attempts=attempts, holder=holder, **known)
    if last is None:
        return Standing(folder, "died" if holder is not None else "empty", attempts=attempts, holder=holder, **known)
    ended = event_of(last)
    match ended:
        case RunFinished():
            return Standing(folder, "finished", attempts=attempts, **known)
        case RunStopped():
            return Standing(folder, "stopped", attempts=attempts, why=ended.reason, **known)
        case RunFailed():
            return Standing(folder, "failed", attempts=attempts, why=ended.title, exit_code=ended.exit_code, **known)
    return Standing(folder, "died", attempts=attempts, holder=holder, **known)


def runs_under(root: Path) -> list[Standing]:
    """The runs in the folders of `root`, or the one in `root` itself; the one that spoke last comes first. Raises OSError."""
    if is_run(root):
        return [standing(root)]
    found = [standing(folder) for folder in sorted(root.iterdir()) if not folder.is_symlink() and is_run(folder)]
    return sorted(found, key=lambda one: -(one.told or 0.0))


def is_run(folder: Path) -> bool:
    """Whether a run was begun in `folder`."""
    return any(is_file(folder / name) for name in (JOURNAL_NAME, RUN_TOML)) or holder_of(folder) is not None


def died(step: int | None, holder: Holder | None) -> RunFailed:
    """What is said of a run that ended without a word, since it could not say it."""
    detail = _(
        "Its lock is free and its journal has no last word: it was killed, perhaps for want of memory, or the machine went down."
    )
    if holder is not None:
        detail += " " + _("It was process {pid} on {host}.").format(pid=holder.pid, host=holder.host)
    fix = _("--resume auto goes on from its last checkpoint.")
    return RunFailed(step, _("the run died without a word"), detail, fix, 1)


def sent_again(folder: Path) -> Warned:
    """What is said where a run has ended that will go on by itself, and is waited for."""
    words = _("its time was up; waiting for the job of {script}, which was sent again")
    return Warned("sent_again", words.format(script=beside(folder)))


def untold(folder: Path) -> RunFailed:
    """What is said of a run whose journal is lost, or tells nothing: whether it was begun, and how it ended, nobody knows."""
    fix = _("lora-tui check {folder} tells what is there.").format(folder=as_argument(folder))
    return RunFailed(None, _("nothing is told of a run here"), _("There is no events.jsonl, or nothing in it."), fix, 2)


def logged_before(folder: Path, started: RunStarted) -> tuple[LogRow, ...]:
    """What was logged up to where `started`, the first attempt of which the Journal in `folder` tells, took over: a run that branched
    off, or that another tool began, goes on from steps that stand in no Journal here. Empty where no checkpoint tells."""
    if started.step == 0:
        return ()
    known = [folder / Path(started.checkpoint).name] if started.checkpoint else []
    with contextlib.suppress(LoraTuiError, OSError):  # a run.toml that is damaged tells nothing
        start = own_start(folder)
        known += [Path(start.resume)] if start is not None and start.resume not in ("auto", "never") else []
    with contextlib.suppress(LoraTuiError, OSError):
        known += [one.path for one in reversed(glance(folder).checkpoints) if one.run == started.run_id]
    for checkpoint in known:
        found = glimpse(checkpoint, history=True) if is_folder(checkpoint) else None
        if found is not None and (found.step or 0) >= started.step:
            return tuple(row for row in found.history if row.step <= started.step)
    return ()


def _here(folder: Path, event: Event) -> Event:
    """`event` as it is true of `folder` now: the journal of a copied or moved run names where its adapter lay then."""
    if isinstance(event, RunFinished) and is_folder(folder / FINAL):
        return replace(event, adapter=str(folder / FINAL))
    return event


def follow(
    folder: Path, emit: Callable[[Sequence[Told]], None], leave: Callable[[], bool]
) -> RunFinished | RunStopped | RunFailed | None:
    """Tell what the journal in `folder` holds, then what is added, until the run has ended or `leave` says so (then None). Blocks.

    `emit` is given batches: the past in one, later ones as they come. A run that died without a word is told as `died`, one that never
    said any as `untold`; neither stands in a journal. One whose job is sent again where its time was up is waited for.
    """
    tail = Tail(folder)
    last: Event | None = None
    step: int | None = None
    began_at: int | None = None
    waits = False
    try:
        while True:
            held, holder = is_held(folder), holder_of(folder)
            batch = [(_here(folder, event), record) for record in tail.new() if (event := event_of(record)) is not None]
            for event, _record in batch:
                if isinstance(event, RunStarted | Step | RunFinished | RunStopped | RunFailed):
                    last, step = event, event.step
                if isinstance(event, RunStarted):
                    began_at, waits = event.step, False
            if batch:
                emit(batch)
            if not held and holder is None and isinstance(last, RunStopped) and is_sent_again(folder, last, began_at):
                if not waits:
                    notice = sent_again(folder)
                    emit([(notice, as_record(notice, 0, time.time()))])
                waits = True
            elif not held:
                if isinstance(last, RunFinished | RunStopped | RunFailed):
                    return last
                empty = last is None and standing(folder).state == "empty"
                ending = untold(folder) if empty else died(step, holder)
                emit([(ending, as_record(ending, 0, time.time()))])
                return ending
            if leave():
                return None
            time.sleep(LOOK)
    finally:
        tail.close()
