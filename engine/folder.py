"""A run's folder (contract C2): who holds it, which run it belongs to, and where a new run goes when it is taken.

The lock is the operating system's (flock through filelock), so it goes with the process that held it, however that ended.
Beside it stands a note of who holds it, for the one sentence a second process needs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.clock import moment
from engine.config import RunConfig
from engine.durable import open_plain_file, write_durably
from engine.errors import ConfigError, OutputError
from engine.events import Warned
from engine.i18n import _
from engine.journal import JOURNAL_NAME, read_journal
from engine.paths import is_file, is_folder
from engine.sources import Source, read_toml, resolve, to_toml, toml_text

if TYPE_CHECKING:
    from filelock import BaseFileLock

RUN_TOML = "run.toml"
FINAL = "final"
RUN_LOG = "run.log"
TRASH = ".trash"
"""Where what is replaced or put away goes (checkpoints/trash.py)."""
_LOCK = ".lock"
_HOLDER = ".lock.holder"
_STOP = ".stop"
_REASON = re.compile(rb"[A-Za-z0-9_]{1,32}")
WATCHER = "watcher"
"""RunStopped.reason where somebody who watched the run from elsewhere asked for it (`ask_to_stop`)."""
OUT_ROOT = Path("out")

NOT_INHERITED = ("resume", "init_from", "accept", "output", "nnodes", "node_rank", "rendezvous")
"""Answers about one start of a run, not about the run: they are kept in run.toml but never taken up from it."""


NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY)
"""What file systems without locks answer: some network and FUSE mounts."""


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[tuple[Warned, ...]]:
    """Hold `output_dir` for this process, creating it; gives what a person should know of that. Raises OutputError where it is busy
    or cannot be written."""
    from filelock import SoftFileLock, Timeout

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
        raise busy(output_dir) from None
    except FileExistsError:
        raise unwritable(output_dir, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from None
    except (OSError, NotImplementedError) as error:
        raise unwritable(output_dir, error) from error
    try:
        if os.path.lexists(output_dir / _HOLDER):
            # The lock was free and the note is still there: who wrote it did not come to take it away.
            notes.append(Warned("lock_taken_over", _("the folder's lock was taken over from a run that is gone. {holder}").format(
                holder=_holder(output_dir))))  # fmt: skip
        try:
            _leave_note(output_dir / _HOLDER)
        except OSError as error:
            raise unwritable(output_dir, error) from error
        with contextlib.suppress(OSError):  # what was asked of a run before this one
            (output_dir / _STOP).unlink(missing_ok=True)
        yield tuple(notes)
    finally:
        for name in (_STOP, _HOLDER):
            with contextlib.suppress(OSError):
                (output_dir / name).unlink(missing_ok=True)
        if created:
            with contextlib.suppress(OSError):  # a folder that holds anything else stays
                if {entry.name for entry in output_dir.iterdir()} <= {_LOCK, f"{_LOCK}.soft"}:
                    (output_dir / _LOCK).unlink(missing_ok=True)
                    (output_dir / f"{_LOCK}.soft").unlink(missing_ok=True)
                    output_dir.rmdir()
        with contextlib.suppress(OSError):  # the folder, or its whole disk, may have gone meanwhile
            lock.release()


def busy(output_dir: Path) -> OutputError:
    """The error for a folder that another process holds."""
    return OutputError(
        _("{folder}: another run is using this folder").format(folder=output_dir),
        _holder(output_dir),
        _("Wait for it or stop it, or choose another --output."),
    )


def need_plain_trash(output_dir: Path) -> None:
    """Raise OutputError where nothing could be put into the folder's trash: told before a run that would need it at its end."""
    trash = output_dir / TRASH
    if os.path.lexists(trash) and (trash.is_symlink() or not trash.is_dir()):
        raise OutputError(
            _("{path}: is no plain folder").format(path=trash),
            _("What a run replaces goes there; a link is not followed."),
            _("Take it away."),
        )


def _acquired(path: Path) -> BaseFileLock:
    """The lock on `path`, held: the system's where the file system has locks, else a file that stands for one."""
    from filelock import FileLock, SoftFileLock

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # filelock itself falls back for ENOSYS and says so on stderr; we say it as an event
            lock: BaseFileLock = FileLock(path, timeout=0)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}.soft"), timeout=0)
        lock.acquire()
    return lock


def _leave_note(path: Path) -> None:
    """Say who holds the lock. What stands there, a link perhaps, is taken away first, never written through."""
    path.unlink(missing_ok=True)
    note = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    with os.fdopen(open_plain_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        file.write(json.dumps(note))


def unwritable(folder: Path, error: BaseException) -> OutputError:
    """The error for an output folder that cannot be written to, with the system's own words."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        _("{folder}: cannot write here").format(folder=folder),
        words,
        _("Check the folder's permissions and the free space, or choose another --output."),
    )


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, by the note beside its lock."""

    pid: int
    host: str
    started: float
    """Seconds of the Unix epoch."""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


def holder_of(output_dir: Path) -> Holder | None:
    """Who holds `output_dir`, or held it and went without a word; None where there is no note, or none that can be read."""
    try:
        with os.fdopen(open_plain_file(output_dir / _HOLDER, os.O_RDONLY), "rb") as file:
            note: Any = json.loads(file.read(4096))
        return Holder(int(note["pid"]), str(note["host"]), float(note["started"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def is_held(output_dir: Path) -> bool:
    """Whether a process holds `output_dir` at this moment, on any machine that shares its locks. Takes nothing from whoever does.

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
    return False


def _is_alive(holder: Holder | None) -> bool:
    """Whether who left this note is still there, where no lock can say so. Of another machine nothing is known: it is believed."""
    import psutil

    if holder is None or not holder.is_here:
        return holder is not None
    with contextlib.suppress(psutil.Error, OverflowError, ValueError):
        return psutil.Process(holder.pid).create_time() <= holder.started + 5  # seconds that clocks may be set back
    return False


def ask_to_stop(output_dir: Path, reason: str = WATCHER) -> None:
    """Ask the run that holds `output_dir`, on whatever machine, to stop after this step and save. `reason`: a word for RunStopped.
    Raises OutputError.

    A file and not a signal: it also reaches a run on another machine, meets no process that was given the same id since, and asking
    twice is asking once, where a second signal means to leave without saving.
    """
    try:
        with os.fdopen(open_plain_file(output_dir / _STOP, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(reason.encode())
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


def run_id_of(output_dir: Path) -> str | None:
    """The id of the run that `output_dir` belongs to, by its run.toml; None where there is none or it cannot be read."""
    import tomllib

    try:
        found = tomllib.loads(toml_text(output_dir / RUN_TOML, follow=False)).get("run_id")
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, str) and re.fullmatch(r"[0-9A-Za-z._-]{1,64}", found) else None


def source_of_run(output_dir: Path) -> Source | None:
    """What the run in `output_dir` was started with. None without a run.toml; raises ConfigError for a damaged one."""
    path = output_dir / RUN_TOML
    if not os.path.lexists(path):
        return None
    source = read_toml(path, "run")
    return Source("run", source.where, {key: value for key, value in source.values.items() if key not in NOT_INHERITED})


def own_start(output_dir: Path) -> RunConfig | None:
    """All of the run.toml in `output_dir`, also how that very start was asked for. None and raises as `source_of_run`."""
    path = output_dir / RUN_TOML
    return resolve([read_toml(path, "run")]).config if os.path.lexists(path) else None


def write_run_toml(output_dir: Path, config: RunConfig, run_id: str) -> None:
    """Record what this run is started with. Raises OSError."""
    write_durably(output_dir / RUN_TOML, to_toml(config, run_id).encode())


def named(output_dir: Path) -> Path:
    """`output_dir`, if this file system can have such a name at all. Raises OutputError: too long, or not of its characters."""
    try:
        output_dir.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # told with more knowledge by whoever goes there
    except (OSError, ValueError) as error:
        raise unwritable(output_dir, error) from error
    return output_dir


def occupied(output_dir: Path) -> bool:
    """Whether anything a person could miss lies in `output_dir`. A lock or an empty folder does not count, nor does the log of a start
    that was killed before its run began."""
    if output_dir.is_symlink() or output_dir.is_file():
        return True
    if not output_dir.is_dir():
        return False
    none = (_LOCK, f"{_LOCK}.soft", _HOLDER, _STOP, RUN_LOG, ".gitkeep")
    return any(entry.name not in none for entry in output_dir.iterdir())


@dataclass(frozen=True)
class Place:
    """Where a run would go, looked at without touching it."""

    folder: Path
    occupied: bool
    free: int
    """Bytes that may still be written there."""
    problem: OutputError | None
    """Why nothing can be written there; None: nothing is known against it."""


def look_at(folder: Path) -> Place:
    """Whether `folder` can hold a run."""
    nearest = next((one for one in (folder, *folder.absolute().parents) if os.path.lexists(one)), Path("/"))
    try:
        taken = occupied(folder)
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
        need_plain_trash(folder)
        free = shutil.disk_usage(nearest).free
        if not free:  # a full disk, or a file system that holds no files, such as /proc
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(nearest))
        return Place(folder, taken, free, None)
    except OutputError as error:
        return Place(folder, True, 0, error)
    except (OSError, ValueError) as error:
        return Place(folder, False, 0, unwritable(folder, error))


def free_sibling(output_dir: Path) -> Path:
    """`output_dir` if it is free, else the first of OUT-2, OUT-3, ... that is."""
    if not occupied(named(output_dir)):
        return output_dir
    if output_dir.name in ("", ".."):  # `.` has no name that a sibling could have
        output_dir = output_dir.resolve()
    number = 2
    while occupied(sibling := named(output_dir.with_name(f"{output_dir.name}-{number}"))):
        number += 1
    return sibling


def last_run(root: Path = OUT_ROOT) -> Path | None:
    """The run under `root` whose journal spoke last (by what it says, not by file times); None where there is none."""
    spoken: list[tuple[float, str, Path]] = []
    if not is_folder(root):
        return None
    for folder in root.iterdir():
        if not is_file(folder / JOURNAL_NAME):
            continue
        times = [record["t"] for record in read_journal(folder) if isinstance(record.get("t"), int | float)]
        if times:
            spoken.append((max(times), folder.name, folder))
    return max(spoken)[2] if spoken else None


def proposed_output(dataset: str, model: str, root: Path = OUT_ROOT) -> Path:
    """`out/<dataset>-<model>`, from the last parts of both names, with only characters that every file system takes."""

    def short(name: str) -> str:
        stem = Path(name.rstrip("/\\")).name or name
        for ending in (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"):
            stem = stem.removesuffix(ending)
        return re.sub(r"[^\w.-]+", "_", stem).strip("._-")[:80]

    name = "-".join(part for part in (short(dataset), short(model)) if part)
    if not name:
        raise ConfigError(_("no folder name can be made of these names"), fix=_("Name one with --output."))
    return root / name
