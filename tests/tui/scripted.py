"""A run that does what it is told, for tests of what a screen makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from engine.events import RunStarted, Step
from engine.resume.plan import ResumePlan
from engine.training.attempt import Outcome
from tests.tui.conftest import Hand, driven
from tui.app import LoraTui

Make = Callable[..., LoraTui]


class Scripted:
    """A runner that tells what it is told to, at the seam where real runners stand."""

    def __init__(self, *script: Any, then: Any = None) -> None:
        self.script, self.then = script, then

    def run(self, plan: ResumePlan, emit: Any, should_stop: Any) -> Outcome:
        import time

        for item in self.script:
            if isinstance(item, BaseException):
                raise item
            emit(item, {})
        end = time.monotonic() + 60  # a test that failed will never ask it to stop
        while not should_stop() and time.monotonic() < end:
            time.sleep(0.01)
        if self.then is not None:
            emit(self.then, {})
        return Outcome("stopped", 5, 1.0)


def started(**changes: Any) -> RunStarted:
    values: dict[str, Any] = {
        "run_id": "r", "output_dir": "out/w", "checkpoint": None, "step": 0, "epoch": 0.0, "total_steps": 100,
        "total_epochs": 2.0, "rows": 26, "trained_tokens": 100, "choices": {"device": "cpu · none"}, "config": {}, "pid": 1,
    }  # fmt: skip
    return RunStarted(**{**values, **changes})


def step(number: int, loss: float) -> Step:
    return Step(number, number / 50, loss, 1e-4, 1.0, number * 10, 100.0)


@asynccontextmanager
async def training(app: LoraTui, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Hand]:
    """The app with a run of the answers given as flags, just started from the review."""
    async with driven(app, size) as hand:
        await hand.straight_to_review()
        await hand.press("ctrl+n")
        yield hand
