"""A run in a child process: the plan goes over, its events come back, and how it ended.

What was planned and shown is what is carried out: the plan itself goes over, pickled (as multiprocessing does), in a file without a
name that only parent and child hold, so nothing is decided a second time. The rows do not go with it; the child reads them again and
the receipt holds them against the checkpoint. It tells its events as JSON lines on a pipe for as long as somebody listens, beside the
Journal.
"""

from __future__ import annotations

import math
import os
import pickle
import select
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from engine.errors import ConfigError, LoraTuiError
from engine.events import LOSS_JUMPED, PARENT_GONE, RunFailed, RunFinished, RunStarted, RunStopped, as_record
from engine.i18n import _
from engine.journal import record_of
from engine.runner import LEFT
from engine.watch import LOOK, died, event_of

if TYPE_CHECKING:
    from engine.resume.plan import ResumePlan
    from engine.training.attempt import Outcome, ShouldStop
    from engine.training.telling import Emit

HAND_OVER = "carry-out"
"""The command of the child. Not for people."""


class InAChild:
    """A Runner whose run is a child process of its own session: no terminal can hang it up, no key of one reaches it."""

    def command(self, plan: ResumePlan) -> Sequence[str]:
        """What the child is started with. It takes its plan by `handed_over` and tells events on its stdout."""
        raise NotImplementedError

    def environment(self, plan: ResumePlan) -> Mapping[str, str]:
        return os.environ

    def ask(self, child: subprocess.Popen[bytes], plan: ResumePlan, begun: bool, reason: str) -> None:
        """Ask the child to stop and save, or only to stop where it has not `begun`."""
        child.terminate()

    def look_after(self, child: subprocess.Popen[bytes], plan: ResumePlan) -> None:
        """Asked now and then while the child says nothing: end one that cannot end by itself."""

    def explain(self, failed: RunFailed, words: str, code: int) -> RunFailed:
        """`failed` with what is known of a child that ended with `code` without saying why: `words` are the last on its stderr."""
        return replace(failed, detail=words or _("exit code {code}").format(code=code))

    def run(self, plan: ResumePlan, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Start the child and tell what it tells. `should_stop` answering LEFT comes back at once and leaves it at work; any other
        reason asks it to stop and save. Raises LoraTuiError where the run failed."""
        from engine.training.attempt import Outcome

        ended: RunFinished | RunStopped | RunFailed | None = None
        step, begun, asked = 0, False, 0.0
        with tempfile.TemporaryFile() as complaints:
            try:
                child = self._start(plan, complaints)
            except LoraTuiError as wrong:
                failed = RunFailed(None, wrong.title, wrong.detail, wrong.fix, wrong.exit_code)
                emit(failed, as_record(failed, 0, time.time()))
                raise
            assert child.stdout is not None
            try:
                for line in _lines(child):
                    record = record_of(line) if line is not None else None
                    event = event_of(record) if record is not None else None
                    if event is not None and record is not None:
                        step = getattr(event, "step", None) or step
                        begun = begun or isinstance(event, RunStarted)
                        ended = event if isinstance(event, RunFinished | RunStopped | RunFailed) else ended
                        emit(event, record)
                    if line is None:
                        self.look_after(child, plan)
                    reason = should_stop()
                    if reason == LEFT:
                        return Outcome("stopped", step, None)
                    if reason and not asked:
                        asked = time.monotonic()
                        self.ask(child, plan, begun, reason)
                    elif asked and time.monotonic() - asked > plan.config.ddp_timeout:  # it hangs
                        asked = math.inf
                        child.terminate()
            except BaseException:  # whoever started it leaves while it starts: nothing was begun
                child.terminate()
                raise
            finally:
                child.stdout.close()
            code = child.wait()
            unasked = isinstance(ended, RunStopped) and ended.reason == PARENT_GONE and not asked
            if unasked or (ended is None and not (asked and not begun)):
                complaints.seek(0)
                words = complaints.read()[-20_000:].decode("utf-8", "replace").strip()
                ended = self.explain(died(step or None, None), words, code)
                emit(ended, as_record(ended, 0, time.time()))
        if isinstance(ended, RunFailed):
            error = LoraTuiError(ended.title, ended.detail, ended.fix)
            error.exit_code = ended.exit_code
            raise error
        if isinstance(ended, RunStopped) and ended.reason == LOSS_JUMPED:
            return Outcome("jumped", step, None)
        return Outcome("finished" if isinstance(ended, RunFinished) else "stopped", step, getattr(ended, "loss", None))

    def _start(self, plan: ResumePlan, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
        if os.name != "posix":
            raise ConfigError(_("a run can be a process of its own on Linux and macOS only"))
        with tempfile.TemporaryFile() as handed:
            handed.write(pickle.dumps(replace(plan, dataset=None)))
            handed.flush()
            return subprocess.Popen(
                list(self.command(plan)), stdin=handed, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True,
                env=dict(self.environment(plan)),
            )  # fmt: skip


def this_program(*arguments: str) -> list[str]:
    """How this very installation is started again. -P: a folder `tui` where the person stands is not ours."""
    return [sys.executable, "-P", "-m", "tui", *arguments]


def handed_over(file: IO[bytes]) -> ResumePlan:
    """The plan that a parent left in `file`. Raises ConfigError where that has a name: a plan from anybody's file is not taken.

    Read from its beginning whatever was read before: several processes are given the same open file.
    """
    from engine.resume.plan import ResumePlan

    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink:
        raise ConfigError(_("{command} is started by the program itself, not by hand").format(command=HAND_OVER))
    try:
        plan: Any = pickle.loads(os.pread(file.fileno(), found.st_size, 0))  # noqa: S301 - from our own parent, see above
    except Exception as error:
        raise ConfigError(_("no plan was handed over"), f"{type(error).__name__}: {error}") from error
    if not isinstance(plan, ResumePlan):
        raise ConfigError(_("no plan was handed over"))
    return plan


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes | None]:
    """Each line as it comes, and None now and then while there is none, until the child, or its side of the pipe, is gone."""
    assert child.stdout is not None
    rest = b""
    while True:
        if not select.select([child.stdout], [], [], LOOK)[0]:
            if child.poll() is not None:  # gone, though a process of its own may still hold the pipe
                return
            yield None
            continue
        block = os.read(child.stdout.fileno(), 65_536)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
