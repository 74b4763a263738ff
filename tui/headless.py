"""A run without a screen: prints events for people on stderr, or as JSON lines on stdout, and turns signals into "stop and save".

It computes nothing. The plan, the receipt and the events come from the engine as data; here they become text. While the engine
trains, descriptors 1 and 2 belong to run.log, so everything is written to duplicates taken before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from engine.answers import gather
from engine.errors import LoraTuiError
from engine.events import Event, RunFailed, as_record
from engine.i18n import _
from engine.resume.plan import ResumePlan, plan_run
from engine.training.complete import conclude
from tui.show import Show, plan_lines

SIGNALS = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}
"""Signals that stop a run after saving, and the exit code of each (C1)."""


class StopRequest:
    """Remembers the first signal for the run to see between steps; a second one leaves at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.signal: str | None = None

    def install(self) -> None:
        """Take over the signals. Only in the main thread, as the system demands."""
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores HUP on purpose
                signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            os._exit(SIGNALS[name])
        self.signal = name
        # A handler may interrupt a print half way: another thread says it, when the stream is free.
        words = _("{signal}: stopping after this step and saving; once more leaves at once").format(signal=name)
        threading.Thread(target=self._say, args=(words,), daemon=True).start()

    def __call__(self) -> str | None:
        return self.signal


def run_headless(flags: Mapping[str, Any], config_file: Path | None, *, demo: bool, as_json: bool, dry_run: bool) -> int:
    """Gather, plan, train; returns the exit code. Raises LoraTuiError for what has not been told as an event."""
    out, people = _duplicate(1), _duplicate(2)
    show = Show(people)
    stop = StopRequest(show.line)
    stop.install()

    def emit(event: Event, record: Mapping[str, Any]) -> None:
        if as_json:
            out.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        show.event(event)

    with show:
        try:
            answers = gather(flags, config_file, _demo(show) if demo else None)
            plan = plan_run(answers.resolved, answers.found)
            show.lines(plan_lines(plan))
            if dry_run:
                if as_json:
                    out.write(json.dumps(_plan_record(plan), ensure_ascii=False, allow_nan=False) + "\n")
                return 0
            if plan.mode == "complete":
                finished = conclude(plan)
                emit(finished, as_record(finished, 0, time.time()))
                return 0
        except LoraTuiError as error:
            failed = RunFailed(None, error.title, error.detail, error.fix, error.exit_code)
            emit(failed, as_record(failed, 0, time.time()))
            return error.exit_code
        return SIGNALS[stop.signal] if stop.signal else _train(plan, emit, stop)


def _train(plan: ResumePlan, emit: Callable[[Event, Mapping[str, Any]], None], stop: StopRequest) -> int:
    from engine.training.trainer import Trainer

    try:
        outcome = Trainer(plan).run(emit, stop)
    except LoraTuiError as error:
        return error.exit_code  # told as run_failed
    if outcome.state == "stopped" and stop.signal:
        return SIGNALS[stop.signal]
    return 0


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
        "loss": checkpoint.loss if checkpoint else None,
        "total_steps": plan.length.total_steps if plan.length else None,
        "total_epochs": plan.length.total_epochs if plan.length else None,
        "saved_learning_rate": plan.saved_learning_rate,
        "next_learning_rate": plan.next_learning_rate,
        "config": plan.config.model_dump(mode="json"),
    }


class _Surviving(io.TextIOWrapper):
    """A stream whose reader may go away: a closed pipe or terminal ends the talk, never the training."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _duplicate(descriptor: int) -> IO[str]:
    """A line-buffered text stream on a duplicate of `descriptor`, which goes on when the engine redirects the original."""
    raw = open(os.dup(descriptor), "wb", buffering=0)  # noqa: SIM115 - lives as long as the process
    encoding = sys.stderr.encoding or "utf-8"
    return _Surviving(cast(IO[bytes], raw), encoding=encoding, errors="replace", line_buffering=True, write_through=True)


def show_error(error: LoraTuiError) -> None:
    """An error that ended a command, on stderr."""
    Show(sys.stderr).event(RunFailed(None, error.title, error.detail, error.fix, error.exit_code))
