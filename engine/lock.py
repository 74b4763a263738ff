"""Who holds a run's folder (C3, 1), and how that run is asked to stop.

The lock is the operating system's (flock through filelock), so it goes with the process that held it, however that ended.
Beside it stands a note of who holds it, for the one sentence a second process needs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import socket
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.clock import moment
from engine.durable import open_plain_file, write_durably
from engine.errors import LoraTuiError, OutputError
from engine.events import Warned
from engine.i18n import _
from engine.paths import is_file

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LOCK = ".lock"
_HOLDER = ".lock.holder"
_STOP = ".stop"
_REASON = re.compile(rb"[A-Za-z0-9_]{1,32}")
LOCK_FILES = (_LOCK, f"{_LOCK}.soft", _HOLDER, _STOP)
"""What of all this may lie in a folder."""
WATCHER = "watcher"
"""RunStopped.reason where somebody who watched the run from elsewhere asked for it (`ask_to_stop`)."""

NO_FILE = (errno.EISDIR, errno.ELOOP, errno.EINVAL)
"""How `open_plain_file` fails at what is none."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY)
"""What file systems without locks answer: some network and FUSE mounts."""


PATIENCE = 0.2
"""Seconds for which a held lock is tried again: whoever looks whether a run holds it (`is_held`) has it for an instant."""


def has_no_locks(error: BaseException) -> bool:
    """Whether `error` says of a file system that it has no locks, and not that one is held."""
    return isinstance(error, NotImplementedError) or (isinstance(error, OSError) and error.errno in NO_LOCKS)


@contextlib.contextmanager
def locked(output_dir: Path, flag: str = "--output", launcher: int | None = None) -> Iterator[tuple[Warned, ...]]:
    """Hold `output_dir` for this process, creating it; gives what a person should know of that. Raises OutputError where it is busy
    or cannot be written. `flag`: which names the folder, here and in the errors below.

    `launcher`: the process that starts this one again where it goes with anything but a LoraTuiError, or is killed. Until then the
    folder counts as held by it, and what was asked of the run is still asked of it."""
    from filelock import SoftFileLock, Timeout

    again = False
    left: tuple[str, ...] = (_STOP, _HOLDER)
    created = not os.path.lexists(output_dir)
    notes = []
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = _acquired(output_dir / _LOCK)
        if isinstance(lock, SoftFileLock):
            notes.append(Warned("soft_lock", _(
                "{folder}: this file system has no locks; a lock file stands for one. Do not start a second run here from another "
                "machine.").format(folder=output_dir)))  # fmt: skip
    except Timeout:
        raise busy(output_dir, flag) from None
    except FileExistsError:
        raise unwritable(output_dir, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), flag) from None
    except (OSError, NotImplementedError) as error:
        raise unwritable(output_dir, error, flag) from error
    try:
        before = holder_of(output_dir)
        if before is not None and _comes_back(before):
            again = before.launcher == launcher
            if not again:
                left = ()
                raise busy(output_dir, flag)
        if os.path.lexists(output_dir / _HOLDER) and not again:
            # The lock was free and the note is still there: who wrote it did not come to take it away.
            notes.append(Warned("lock_taken_over", _("the folder's lock was taken over from a run that is gone. {holder}").format(
                holder=_holder(output_dir))))  # fmt: skip
        try:
            _leave_note(output_dir / _HOLDER, launcher, again)
        except OSError as error:
            raise unwritable(output_dir, error, flag) from error
        if not again:
            with contextlib.suppress(OSError):  # what was asked of a run before this one
                (output_dir / _STOP).unlink(missing_ok=True)
        try:
            yield tuple(notes)
        except LoraTuiError:
            raise
        except Exception:
            left = (_STOP, _HOLDER) if launcher is None else ()
            raise
    finally:
        _take_away(output_dir, left, created)
        with contextlib.suppress(OSError):  # the folder, or its whole disk, may have gone meanwhile
            lock.release()


def _take_away(output_dir: Path, notes: Iterable[str], created: bool) -> None:
    """The notes beside the lock, and the folder itself where it was `created` for a run that left nothing in it."""
    for name in notes:
        with contextlib.suppress(OSError):
            (output_dir / name).unlink(missing_ok=True)
    if created:
        with contextlib.suppress(OSError):  # a folder that holds anything else stays
            if {entry.name for entry in output_dir.iterdir()} <= {_LOCK, f"{_LOCK}.soft"}:
                (output_dir / _LOCK).unlink(missing_ok=True)
                (output_dir / f"{_LOCK}.soft").unlink(missing_ok=True)
                output_dir.rmdir()


def busy(output_dir: Path, flag: str = "--output") -> OutputError:
    """The error for a folder that another process holds."""
    return OutputError(
        _("{folder}: another run is using this folder").format(folder=output_dir),
        _holder(output_dir),
        _("Wait for it or stop it, or choose another {flag}.").format(flag=flag),
    )


def unwritable(folder: Path, error: BaseException, flag: str = "--output") -> OutputError:
    """The error for an output folder that cannot be written to, with the system's own words; where something else stands in the place
    of one of its files, for that."""
    at = (
        Path(os.fsdecode(error.filename))
        if isinstance(error, OSError) and isinstance(error.filename, str | bytes)
        else folder
    )
    if (
        isinstance(error, OSError)
        and error.errno in NO_FILE
        and folder in at.parents
        and (at.is_symlink() or not is_file(at))
    ):
        return OutputError(
            _("{path}: is no plain file").format(path=at),
            _("A run writes to a file of that name; a link is not followed."),
            _("Take it away, or choose another {flag}.").format(flag=flag),
        )
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        _("{folder}: cannot write here").format(folder=folder),
        words,
        _("Check the folder's permissions and the free space, or choose another {flag}.").format(flag=flag),
    )


def _acquired(path: Path) -> BaseFileLock:
    """The lock on `path`, held: the system's where the file system has locks, else a file that stands for one."""
    from filelock import FileLock, SoftFileLock

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # filelock itself falls back for ENOSYS and says so on stderr; we say it as an event
            lock: BaseFileLock = FileLock(path, timeout=PATIENCE)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        if not has_no_locks(error):
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}.soft"), timeout=0)
        lock.acquire()
    return lock


def _leave_note(path: Path, launcher: int | None, again: bool) -> None:
    """Say who holds the lock. What stands there, a link perhaps, is taken away first, never written through. `again`: what stands
    there is this very run's, and stays at every moment, so that nobody who looks finds none."""
    note = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    if launcher is not None:
        note["launcher"] = launcher
    if not again:
        path.unlink(missing_ok=True)
    with os.fdopen(open_plain_file(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if again else os.O_EXCL)), "w") as file:
        file.write(json.dumps(note))


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, by the note beside its lock."""

    pid: int
    host: str
    started: float
    """Seconds of the Unix epoch."""
    launcher: int | None = None
    """The process that starts it again where it is lost, if there is one."""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


def holder_of(output_dir: Path) -> Holder | None:
    """Who holds `output_dir`, or held it and went without a word; None where there is no note, or none that can be read."""
    try:
        with os.fdopen(open_plain_file(output_dir / _HOLDER, os.O_RDONLY), "rb") as file:
            note: Any = json.loads(file.read(4096))
        launcher, started = note.get("launcher"), float(note["started"])
        if not math.isfinite(started):  # Python's JSON knows more numbers than JSON does, and no run wrote them
            return None
        return Holder(int(note["pid"]), str(note["host"]), started, None if launcher is None else int(launcher))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def is_held(output_dir: Path) -> bool:
    """Whether a process holds `output_dir` at this moment, on any machine that shares its locks, or is about to be started again there
    by a process of this machine. Takes nothing from whoever does.

    A run takes its note away before it lets the lock go, so without a note nobody holds it. With one the lock itself decides: the
    system frees it however its holder ended, and a process id that was given out again fools nobody.
    """
    if not os.path.lexists(output_dir / _HOLDER):
        return False
    try:
        import fcntl

        lock = open_plain_file(output_dir / _LOCK, os.O_RDONLY)
    except (ImportError, OSError):
        return _is_alive(holder_of(output_dir))
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return _is_alive(holder_of(output_dir))
    finally:
        os.close(lock)
    return _comes_back(holder_of(output_dir))


def _is_alive(holder: Holder | None) -> bool:
    """Whether who left this note is still there, where no lock can say so. Of another machine nothing is known: it is believed."""
    if holder is None or not holder.is_here:
        return holder is not None
    return _is_there(holder.pid, holder.started) or _comes_back(holder)


def _comes_back(holder: Holder | None) -> bool:
    """Whether who left this note, and holds the lock no more, is started again. Of another machine nothing is known: it is not."""
    return (
        holder is not None and holder.is_here and holder.launcher is not None and _is_there(holder.launcher, holder.started)
    )


def _is_there(pid: int, since: float) -> bool:
    """Whether the process that had the id `pid` at the time `since` still runs."""
    import psutil

    with contextlib.suppress(psutil.Error, OverflowError, ValueError):
        process = psutil.Process(pid)
        # seconds that clocks may be set back
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 5
    return False


def ask_to_stop(output_dir: Path, reason: str = WATCHER) -> None:
    """Ask the run that holds `output_dir`, on whatever machine, to stop after this step and save. `reason`: a word for RunStopped.
    Raises OutputError.

    A file and not a signal: it also reaches a run on another machine, meets no process that was given the same id since, and asking
    twice is asking once, where a second signal means to leave without saving.
    """
    try:
        write_durably(output_dir / _STOP, reason.encode())  # at once: a reason that stood there leaves nothing of itself
    except OSError as error:
        raise unwritable(output_dir, error) from error


def stop_asked(output_dir: Path) -> str | None:
    """The reason for which the run in `output_dir` was asked to stop; None where it was not."""
    if not os.path.lexists(output_dir / _STOP):
        return None
    try:
        with os.fdopen(open_plain_file(output_dir / _STOP, os.O_RDONLY), "rb") as file:
            reason = file.read(33)
    except OSError:  # whatever it is: somebody has put it there
        return WATCHER
    return reason.decode() if _REASON.fullmatch(reason) else WATCHER


def _holder(output_dir: Path) -> str:
    holder = holder_of(output_dir)
    since = moment(holder.started) if holder is not None else None
    if holder is None or since is None:
        return _("The holder left no note of itself.")
    words = since.isoformat(sep=" ", timespec="seconds")
    return _("Held by process {pid} on {host} since {since}.").format(pid=holder.pid, host=holder.host, since=words)
