"""What happens in a run is told twice: to the Journal, once there is one, and to whoever looks on.

Also how it ended, whatever it ended of: an error of the outside world is put into this program's words, a fault of this program keeps
its own."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.cache import cache_root
from engine.config import RunConfig
from engine.errors import DatasetError, LoraTuiError, ModelError, OutputError
from engine.events import Event, RunFailed, Warned, as_record
from engine.i18n import _, sentences
from engine.journal import JOURNAL_NAME, Journal
from engine.lock import unwritable
from engine.paths import is_folder, path_of
from engine.training.ranks import PeerLost, Ranks, TooManyRows

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
NO_ROOM = 2**20
"""Bytes that are free on a disk that counts as full: what a write that failed has left of it."""

Emit = Callable[[Event, Mapping[str, Any]], None]
"""Told each event and its record as it stands in the Journal."""


class Telling:
    """Called with each event of one run, in this process."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.journal: Journal | None = None
        """Rank 0's, once the folder is held and the data are read."""
        self._step: int | None = None
        self._failing = threading.Lock()
        self._ended = False

    def __call__(self, event: Event) -> None:
        if self.journal is None:
            self.emit(event, as_record(event, 0, time.time()))
            return
        with self._loss_told():
            self.emit(event, self.journal.write(event))
        if event.type == "step":
            self._step = event.step  # type: ignore[attr-defined]

    def failed(self, error: LoraTuiError) -> None:
        """The run ends with `error`. Told once: rank 0's word may come while this process has its own."""
        if self._failing.acquire(blocking=False):
            self(RunFailed(self._step, error.title, error.detail, error.fix, error.exit_code))

    @contextlib.contextmanager
    def ends(self, out: Path, ranks: Ranks, config: RunConfig) -> Iterator[None]:
        """Inside is rank 0's run in the folder `out`: what it fails of is told, and the others let go. Raises LoraTuiError for every
        error but those that all processes begin again after.

        It stands around the whole run and once more inside of the folder's lock, and the inner one tells: who finds the lock free and
        the Journal without a last word takes the run for one that died, or begins the next one.
        """
        try:
            yield
        except BaseException as raised:
            if self._ended:
                raise
            self._ended = True
            error = self._last_word(ranks.explained(raised), out, ranks, config)
            if error is raised:
                raise
            raise error from raised
        finally:
            if self.journal is not None:
                with self._loss_told():
                    self.journal.close()
                self.journal = None

    def _last_word(self, error: BaseException, out: Path, ranks: Ranks, config: RunConfig) -> BaseException:
        """Tell how the run ends; the error that it ends with."""
        if isinstance(error, KeyboardInterrupt):  # whoever raised it leaves at once, and nothing has begun (headless.Leave)
            ranks.over()
            return error
        if isinstance(error, TooManyRows):  # told by whoever starts again
            return error
        if isinstance(error, PeerLost):
            self(Warned("peer_lost", _(
                "another process of this run is gone: {words}. All of them start again from the last checkpoint.").format(
                    words=error)))  # fmt: skip
            return error
        known = error if isinstance(error, LoraTuiError) else _as_known(error, out, config)
        self.failed(known)
        ranks.over(known)
        return known

    @contextlib.contextmanager
    def _loss_told(self) -> Iterator[None]:
        """That the Journal cannot be written is said to whoever looks on, once, since it cannot be said there."""
        assert self.journal is not None
        known = self.journal.problem
        yield
        if (error := self.journal.problem) is None or known is not None:
            return
        words = _("{file} cannot be written: {why}. The run goes on; what it tells is not kept.").format(
            file=JOURNAL_NAME, why=error.strerror or error
        )
        warned = Warned("journal_failed", words)
        self.emit(warned, as_record(warned, self.journal.attempt, time.time()))


def refused(error: OSError, out: Path, config: RunConfig) -> LoraTuiError:
    """The error for what the system refused to a run in the folder `out`: of a file that is not its own, which and whose."""
    at = _place_of(error, out)
    whose = _whose(at, out, config) if at is not None else "run"
    why, check = error.strerror or str(error), _("Check its permissions and the free space there.")
    match whose:
        case "run":
            return unwritable(out, error)
        case "model":
            return ModelError(_("{path}: this file of the model cannot be used").format(path=at), why, check)
        case "dataset":
            return DatasetError(_("{path}: this file of the dataset cannot be used").format(path=at), why, check)
        case "cache":
            where = _("lora-tui's cache is there; LORA_TUI_CACHE names another folder for it.")
        case "temporary":
            where = _("Temporary files go there; TMPDIR names another folder for them.")
        case _:
            where = ""
    return OutputError(_("{path}: cannot be read or written").format(path=at), why, sentences(check, where))


def _whose(at: Path, out: Path, config: RunConfig) -> str:
    """What the file `at` is of: run, model, dataset, cache or temporary; empty where it is of none of them."""
    if at.is_relative_to(out.absolute()):
        return "run"
    if _is_of(at, config.model, "models"):
        return "model"
    if _is_of(at, config.dataset, "datasets") or _is_of(at, config.eval_dataset, "datasets"):
        return "dataset"
    if at.is_relative_to(cache_root()):
        return "cache"
    return "temporary" if at.is_relative_to(_temporary_folder()) else ""


def _place_of(error: OSError, out: Path) -> Path | None:
    """What `error` is about: the file it names, else a folder beside `out` whose disk is full; None where neither is known."""
    if isinstance(error.filename, str | bytes):
        return Path(os.fsdecode(error.filename)).absolute()
    # What is written to says so without its name; who finds no folder for a temporary file found them all full, or closed.
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT) or _is_full(out):
        return None
    return next((folder for folder in (_temporary_folder(), cache_root()) if _is_full(folder)), None)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < NO_ROOM
    except OSError:  # it is not there
        return False


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir()).absolute()
    except OSError:  # nothing could be written to any of those it knows
        return Path(os.environ.get("TMPDIR") or "/tmp").absolute()


def _is_of(at: Path, named: str | None, kind: str) -> bool:
    """Whether `at` is of what was named, a path or a hub id: `kind` is what the hub's cache calls that."""
    if named is None:
        return False
    path = path_of(named).absolute()
    return at == path or (is_folder(path) and path in at.parents) or f"{kind}--{named.replace('/', '--')}" in at.parts


def _as_known(error: BaseException, out: Path, config: RunConfig) -> LoraTuiError:
    """An error of the outside world in our words; a fault of ours keeps its own."""
    if isinstance(error, OSError):
        at = _place_of(error, out)
        if error.errno in DISK or (at is not None and _whose(at, out, config)):
            return refused(error, out, config)
    words = str(error).splitlines()[0] if str(error) else ""
    return LoraTuiError(
        _("{kind}: {words}").format(kind=type(error).__name__, words=words),
        fix=_(
            "This is a fault of lora-tui or of a library; run.log has the details. "
            "What was saved can be continued with --resume auto."
        ),
    )
