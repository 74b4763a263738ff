"""Carries a plan out in a process of its own, which outlives the terminal, the ssh session and whoever started it.

What was planned and shown is what is carried out: the plan itself goes over, pickled, through a pipe that only parent and child hold
(as multiprocessing does), so nothing is decided a second time. The rows do not go with it; the child reads them again and the
receipt holds them against the checkpoint. The child leads a session of its own (setsid), so that no terminal can hang it up, takes
the folder's lock itself, and tells its events as JSON lines on a pipe for as long as somebody listens, beside the Journal.
"""

from __future__ import annotations

import os
import pickle
import select
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from engine.errors import ConfigError, LoraTuiError
from engine.events import LOSS_JUMPED, RunFailed, RunFinished, RunStarted, RunStopped, as_record, record_of
from engine.i18n import _
from engine.runner import LEFT
from engine.watch import LOOK, died, event_of

if TYPE_CHECKING:
    from engine.resume.plan import ResumePlan
    from engine.training.session import Outcome, ShouldStop
    from engine.training.trainer import Emit


@dataclass(frozen=True)
class InItsOwnProcess:
    """The Runner that does it."""

    command: Sequence[str]
    """What the child is started with: it calls `handed_over` and carries out what that gives, telling events on its stdout."""

    def run(self, plan: ResumePlan, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Start the child and tell what it tells. `should_stop` answering LEFT comes back at once and leaves it at work; any other
        reason asks it to stop and save. Raises LoraTuiError where the run failed."""
        from engine.training.session import Outcome

        if os.name != "posix":
            raise ConfigError(_("a run can be detached from its terminal on Linux and macOS only"))
        ended: RunFinished | RunStopped | RunFailed | None = None
        step, asked = 0, False
        with tempfile.TemporaryFile() as complaints:
            child = self._start(plan, complaints)
            assert child.stdout is not None
            try:
                for line in _lines(child.stdout):
                    record = record_of(line) if line is not None else None
                    event = event_of(record) if record is not None else None
                    if event is not None and record is not None:
                        step = getattr(event, "step", None) or step
                        ended = event if isinstance(event, RunFinished | RunStopped | RunFailed) else ended
                        emit(event, record)
                    reason = should_stop()
                    if reason == LEFT:
                        return Outcome("stopped", step, None)
                    if reason and not asked:
                        asked = True
                        child.terminate()
            except BaseException:  # whoever started it leaves while it starts: nothing was begun
                child.terminate()
                raise
            finally:
                child.stdout.close()
            code = child.wait()
            if ended is None and not asked:
                complaints.seek(0)
                words = complaints.read()[-2000:].decode("utf-8", "replace").strip()
                ended = replace(died(step or None, None), detail=words or _("exit code {code}").format(code=code))
                emit(ended, as_record(ended, 0, 0.0))
        if isinstance(ended, RunFailed):
            error = LoraTuiError(ended.title, ended.detail, ended.fix)
            error.exit_code = ended.exit_code
            raise error
        if isinstance(ended, RunStopped) and ended.reason == LOSS_JUMPED:
            return Outcome("jumped", step, None)
        return Outcome("finished" if isinstance(ended, RunFinished) else "stopped", step, getattr(ended, "loss", None))

    def _start(self, plan: ResumePlan, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            list(self.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True
        )
        assert child.stdin is not None
        try:
            with child.stdin:
                child.stdin.write(pickle.dumps(replace(plan, dataset=None)))
        except BrokenPipeError:
            pass  # it has ended; why is read below
        return child


def moved(plan: ResumePlan, outcome: Outcome) -> ResumePlan:
    """What goes on from where the run of `plan` was just stopped: from the checkpoint it saved, with the settings it ran with; `plan`
    itself where it had done no step yet. Raises LoraTuiError."""
    from engine.answers import gather
    from engine.resume.plan import plan_run
    from engine.training.fitting import let_go

    let_go()  # the device's memory is the child's now
    began = plan.checkpoint.step if plan.mode == "continue" and plan.checkpoint is not None else 0
    if outcome.step <= (began or 0):
        return plan
    answers = gather({"output": str(plan.output_dir), "resume": "auto"}, environ={})
    return plan_run(answers.resolved, answers.found)


def detached_command() -> list[str]:
    """How this very installation is started again. -P: a folder `tui` where the person stands is not ours."""
    return [sys.executable, "-P", "-m", "tui", HAND_OVER]


HAND_OVER = "carry-out"
"""The command of the child. Not for people."""


def handed_over(pipe: IO[bytes]) -> ResumePlan:
    """The plan that a parent sends through `pipe`. Raises ConfigError where that is no pipe: a plan from a file is not taken."""
    from engine.resume.plan import ResumePlan

    if not stat.S_ISFIFO(os.fstat(pipe.fileno()).st_mode):
        raise ConfigError(_("{command} is started by --detach, not by hand").format(command=HAND_OVER))
    try:
        plan: Any = pickle.loads(pipe.read())  # noqa: S301 - from our own parent, see above
    except Exception as error:  # half a pickle, or none: the parent was killed
        raise ConfigError(_("no plan was handed over"), f"{type(error).__name__}: {error}") from error
    if not isinstance(plan, ResumePlan):
        raise ConfigError(_("no plan was handed over"))
    return plan


def until_it_runs(emit: Emit) -> tuple[Emit, ShouldStop]:
    """`emit` and a should_stop that goes away once the run holds its folder, has read its data and begins."""
    begun = []

    def told(event: Any, record: Any) -> None:
        if isinstance(event, RunStarted):
            begun.append(event)
        emit(event, record)

    return told, lambda: LEFT if begun else None


def _lines(pipe: IO[bytes]) -> Iterator[bytes | None]:
    """Each line as it comes, and None now and then while there is none, until the other side is closed."""
    rest = b""
    while True:
        if not select.select([pipe], [], [], LOOK)[0]:
            yield None
            continue
        block = os.read(pipe.fileno(), 65_536)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
