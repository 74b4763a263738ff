"""A run without a screen: prints events for people on stderr, or as JSON lines on stdout, and turns signals into "stop and save".

It computes nothing. The plan, the receipt and the events come from the engine as data; here they become text. While the engine
trains, descriptors 1 and 2 belong to run.log, so everything is written to duplicates taken before.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from engine.answers import gather
from engine.errors import LoraTuiError, OutputError
from engine.events import Event, RowsTokenised, RunFailed, RunStarted, as_record
from engine.i18n import _
from engine.launch import runner_of
from engine.resume.ahead import look_ahead, need_free_folder
from engine.resume.plan import ResumePlan, plan_run
from engine.runner import InThisProcess
from tui.plan_text import plan_lines
from tui.show import Show
from tui.signals import SIGNALS, heeded, is_echo
from tui.streams import duplicate


class Leave(KeyboardInterrupt):
    """A signal came while there is nothing to save yet."""


REFUSED = 3
"""The exit code of a dry run whose plan would be refused by the receipt."""
LEFT_ITS_PATH = 1
"""The exit code of a run that --on-jump ended before its last step."""


class StopRequest:
    """Remembers the first signal for the run to see between steps; a second one leaves at once.

    Until the run has started nothing could be lost, so the first one leaves too: by an exception, so that locks and half made
    files are tidied up on the way.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.signal: str | None = None
        self._since = 0.0
        self.running = False
        """Whether there is a run that wants to save before it ends."""

    def install(self) -> None:
        """Take over the signals. Only in the main thread, as the system demands."""
        for _name, number, _code in heeded():
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self.signal is not None:
            if is_echo(name, self.signal, now - self._since):
                return
            os._exit(SIGNALS[name])
        self.signal, self._since = name, now
        if not self.running:
            raise Leave(name)
        # A handler may interrupt a print half way: another thread says it, when the stream is free.
        words = _("{signal}: stopping after this step and saving; once more leaves at once").format(signal=name)
        threading.Thread(target=self._say, args=(words,), daemon=True).start()

    def heard(self, event: Event) -> None:
        """From the beginning of a run on a signal saves before it ends it."""
        self.running = self.running or isinstance(event, RunStarted)

    def __call__(self) -> str | None:
        return self.signal


def run_headless(
    flags: Mapping[str, Any], config_file: Path | None, *, demo: bool, as_json: bool, dry_run: bool, detach: bool = False
) -> int:
    """Gather, plan, train; returns the exit code. Raises LoraTuiError for what has not been told as an event."""
    out, people = duplicate(1), duplicate(2)
    show = Show(people)
    stop = StopRequest(show.line)
    stop.install()

    def emit(event: Event, record: Mapping[str, Any]) -> None:
        stop.heard(event)
        if as_json and not isinstance(event, RowsTokenised):  # the events of the Journal: what scripts were promised
            known = out.problem
            # Escaped to ASCII: a terminal must not be moved by a name either, and every reader of JSON undoes it.
            out.write(json.dumps(record, allow_nan=False) + "\n")
            if out.problem is not None and known is None:
                words = _("standard output cannot be written: {why}. What is told there is lost; that stops no run.")
                show.line(words.format(why=out.problem.strerror or out.problem), "yellow")
        show.event(event)

    def work() -> int:
        try:
            answers = gather(flags, config_file, _demo(show) if demo else None)
            plan = plan_run(answers.resolved, answers.found)
            if not dry_run:
                need_free_folder(plan)
            show.lines(plan_lines(plan))
            if dry_run:
                if as_json:
                    out.write(json.dumps(_plan_record(plan), allow_nan=False) + "\n")
                    if out.problem is not None:
                        why = out.problem.strerror or str(out.problem)
                        raise OutputError(_("standard output cannot be written"), why)
                if plan.refused:
                    return REFUSED
                show.lines((note, "") for note in (look_ahead(plan) if plan.mode != "complete" else ()))
                return 0
            if plan.mode == "complete":
                InThisProcess().run(plan, emit, stop)
                return 0
        except LoraTuiError as error:
            failed = RunFailed(None, error.title, error.detail, error.fix, error.exit_code)
            emit(failed, as_record(failed, 0, time.time()))
            return error.exit_code
        except Exception as error:  # a fault of ours: whoever reads the events is told too
            failed = RunFailed(None, f"{type(error).__name__}: {error}", "", _("This is a fault of lora-tui."), 1)
            emit(failed, as_record(failed, 0, time.time()))
            raise
        return _detach(plan, emit, show) if detach else _train(plan, emit, stop)

    with show:
        return _or_left(show, work)


def _or_left(show: Show, work: Callable[[], int]) -> int:
    """The exit code of `work`, or that of a signal which came before there was anything to save."""
    try:
        return work()
    except Leave as signalled:
        show.line(_("{signal}: nothing was trained yet").format(signal=signalled))
        return SIGNALS[str(signalled)]


def _detach(plan: ResumePlan, emit: Callable[[Event, Mapping[str, Any]], None], show: Show) -> int:
    """Hand `plan` to a process of its own and come back once that runs, or with the code it ended with."""
    from engine.detached import InItsOwnProcess, until_it_runs

    begun, leave = until_it_runs(emit)
    try:
        InItsOwnProcess().run(plan, begun, leave)
    except LoraTuiError as error:
        return error.exit_code  # told as run_failed
    show.lines([(words, "bold") for words in goes_on_words(plan.output_dir)])
    return 0


def goes_on_words(folder: Path) -> list[str]:
    """What a person must know who leaves a run at work: that it goes on, how to see it, how to stop it."""
    return [
        _("the run goes on without this terminal in {folder}").format(folder=folder),
        _("watch it, or stop and save it: lora-tui watch {folder}").format(folder=shlex.quote(str(folder.absolute()))),
    ]


def run_handed_over() -> int:
    """The body of a run's own process, or of one of its several: carry out the plan that comes through stdin, tell its events on
    stdout."""
    from engine.child import handed_over

    plan = handed_over(sys.stdin.buffer)
    out, talk = duplicate(1), StopRequest(lambda words: None)
    talk.install()
    one_of_several = plan.config.world > 1 and isinstance(runner_of(plan), InThisProcess)
    first = not one_of_several or os.environ["LOCAL_RANK"] == "0"

    def emit(event: Event, record: Mapping[str, Any]) -> None:
        talk.heard(event)
        if first:
            out.write(json.dumps(record, allow_nan=False) + "\n")

    try:
        if one_of_several:
            return _as_one_of_several(plan, emit, talk, out.fileno())
        return _train(plan, emit, talk)
    except Leave as signalled:
        return SIGNALS[str(signalled)]


def _as_one_of_several(
    plan: ResumePlan, emit: Callable[[Event, Mapping[str, Any]], None], talk: StopRequest, listener: int
) -> int:
    """0 for whatever end was told, so that torchrun starts nothing again; only a lost process brings all of them back."""
    from engine.launch import left_alone
    from engine.training.ranks import LOST, PeerLost

    alone = left_alone(listener)
    try:
        InThisProcess().run(plan, emit, lambda: talk() or alone())
    except PeerLost:
        os._exit(LOST)  # a library that waits for the lost one would keep this process
    except LoraTuiError:
        pass
    return 0


def carry_out(plan: ResumePlan, show: Show) -> int:
    """Carry out a plan that a person has agreed to, told on `show`; the exit code. Raises LoraTuiError for a complete run's folder."""
    stop = StopRequest(show.line)
    stop.install()

    def emit(event: Event, record: Mapping[str, Any]) -> None:
        stop.heard(event)
        show.event(event)

    def work() -> int:
        if plan.mode == "complete":
            InThisProcess().run(plan, emit, stop)
            return 0
        return _train(plan, emit, stop)

    with show:
        return _or_left(show, work)


def _train(plan: ResumePlan, emit: Callable[[Event, Mapping[str, Any]], None], stop: StopRequest) -> int:
    try:
        outcome = runner_of(plan).run(plan, emit, stop)
    except LoraTuiError as error:
        return error.exit_code  # told as run_failed
    if outcome.state == "stopped" and stop.signal:
        return SIGNALS[stop.signal]
    return LEFT_ITS_PATH if outcome.state == "jumped" else 0


def _demo(show: Show) -> dict[str, Any]:
    from engine.demo import demo_answers, ensure_demo
    from engine.hardware import prepare_process

    prepare_process()

    ensure_demo(show.progress)
    return dict(demo_answers())


def _plan_record(plan: ResumePlan) -> dict[str, Any]:
    checkpoint = plan.checkpoint
    return {
        "type": "plan",
        "mode": plan.mode,
        "output_dir": str(plan.output_dir),
        "checkpoint": checkpoint.name if checkpoint else None,
        "reason": plan.reason,
        "passed_over": [{"checkpoint": passed.checkpoint.name, "reason": passed.reason} for passed in plan.passed_over],
        "problems": [asdict(problem) for problem in checkpoint.problems] if checkpoint else [],
        "differences": [asdict(difference) for difference in plan.differences],
        "step": checkpoint.step if checkpoint else 0,
        "epoch": checkpoint.epoch if checkpoint else 0.0,
        "epochs_left": plan.epochs_left,
        "loss": checkpoint.loss if checkpoint else None,
        "total_steps": plan.length.total_steps if plan.length else None,
        "total_epochs": plan.length.total_epochs if plan.length else None,
        "saved_learning_rate": plan.saved_learning_rate,
        "next_learning_rate": plan.next_learning_rate,
        "config": plan.config.model_dump(mode="json"),
    }


def show_error(error: LoraTuiError) -> None:
    """An error that ended a command, on stderr."""
    Show(sys.stderr).event(RunFailed(None, error.title, error.detail, error.fix, error.exit_code))
