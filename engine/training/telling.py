"""What happens in a run is told twice: to the Journal, once there is one, and to whoever looks on.

Also how it ended, whatever it ended of: an error of the outside world is put into this program's words, a fault of this program keeps
its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import LoraTuiError
from engine.events import Event, RunFailed, Warned, as_record
from engine.i18n import _
from engine.journal import JOURNAL_NAME, Journal
from engine.training.ranks import PeerLost, Ranks, TooManyRows
from engine.training.refused import is_refusal, refused

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


def _as_known(error: BaseException, out: Path, config: RunConfig) -> LoraTuiError:
    """An error of the outside world in our words; a fault of ours keeps its own."""
    if isinstance(error, OSError) and is_refusal(error, out, config):
        return refused(error, out, config)
    words = str(error).splitlines()[0] if str(error) else ""
    return LoraTuiError(
        _("{kind}: {words}").format(kind=type(error).__name__, words=words),
        fix=_(
            "This is a fault of lora-tui or of a library; run.log has the details. "
            "What was saved can be continued with --resume auto."
        ),
    )
