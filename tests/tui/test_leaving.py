"""Stopping a run and leaving it: with keys, by signals, and while it is moved to a process of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.css.query import NoMatches

from engine.events import RunStopped
from engine.journal import read_journal
from engine.resume.plan import ResumePlan
from engine.training.attempt import Outcome
from tests.tui.conftest import at_work, driven
from tests.tui.scripted import Scripted, started, step, training
from tui.app import LoraTui
from tui.at_work import RunAtWork
from tui.opening import opened
from tui.screens.export import ExportScreen

Make = Callable[..., LoraTui]


async def test_stop_and_save_keeps_the_step_and_can_be_continued(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "epochs": "400"})
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: app.shown.live.step is not None and app.shown.live.step.step >= 4)
        await hand.press("s")
        await hand.arrive("ResultScreen")
        assert hand.shows("stopped at step")
        stopped = app.shown.live.ended.step  # type: ignore[union-attr]
        await hand.press("enter")
    assert app.return_code == 0
    assert Path(f"out/w/checkpoint-{stopped}/manifest.json").is_file()


@pytest.mark.parametrize("answer", ["button", "again"])
async def test_quitting_while_it_trains_asks_and_saves(answer: str, wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "epochs": "400"})
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: app.shown.live.step is not None)
        await hand.press("ctrl+q")
        await hand.arrive("QuitScreen")
        await hand.press("escape")
        await hand.arrive("TrainingScreen")
        assert app.shown.running
        await hand.press("ctrl+q")
        await hand.arrive("QuitScreen")
        await hand.press("right", "left", "down", "enter" if answer == "button" else "ctrl+c")
        await hand.until(lambda: not app.shown.running)
    assert app.return_code == 0
    (last,) = [record for record in read_journal(Path("out/w")) if record["type"] == "run_stopped"]
    assert Path(f"out/w/checkpoint-{last['step']}").is_dir()


async def test_a_signal_that_comes_while_the_run_is_moved_is_heeded(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has stopped and saved; to plan what goes on of it takes seconds."""
    from engine import detached

    app = wizard(flags, runner=Scripted(started()))

    def meanwhile(plan: ResumePlan, outcome: Outcome) -> ResumePlan:
        app.call_from_thread(app._signalled, "SIGTERM", 143)
        return plan

    monkeypatch.setattr(detached, "moved", meanwhile)
    monkeypatch.setattr(detached.InItsOwnProcess, "run", lambda *given: pytest.fail("a process was begun"))
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.started is not None)  # before that the key does nothing
        await hand.press("d")
        await hand.until(lambda: app.return_code is not None)
    assert app.return_code == 143


async def test_a_signal_that_comes_at_the_moment_of_moving_is_not_lost(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import detached

    app = wizard(flags, runner=Scripted(started()))
    asked: list[str] = []
    kept = {"then": "result"}

    def then(self: RunAtWork) -> str:
        """When the run's own thread looks for the second time, what it is asked is about to be decided."""
        found = kept["then"]
        if threading.current_thread() is not threading.main_thread() and found == "process":
            asked.append(found)
            if len(asked) == 2:
                assert app._loop is not None
                app._loop.call_soon_threadsafe(app._signalled, "SIGTERM", 143)
                time.sleep(0.5)
        return found

    def runs(self: Any, plan: ResumePlan, emit: Any, should_stop: Callable[[], str | None]) -> Outcome:
        end = time.monotonic() + 5
        while not should_stop() and time.monotonic() < end:
            time.sleep(0.01)
        return Outcome("stopped", 5, 1.0)

    setting = property(then, lambda self, value: kept.update(then=value))
    monkeypatch.setattr(RunAtWork, "then", setting, raising=False)
    monkeypatch.setattr(detached, "moved", lambda plan, outcome: plan)
    monkeypatch.setattr(detached.InItsOwnProcess, "run", runs)
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.started is not None)  # before that the key does nothing
        await hand.press("d")
        await hand.until(lambda: app.return_code is not None)
    assert app.return_code == 143 and at_work(app).left, "the run goes on, and the wizard has gone"


async def test_who_leaves_a_detached_run_that_was_asked_to_stop_is_not_told_that_it_goes_on(
    wizard: Make, flags: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0), then=RunStopped("user", 1, 0.1, "checkpoint-1")))
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.step is not None)
        at_work(app).detached = True
        asked: list[str | None] = []
        with at_work(app)._asking:  # before the run's thread looks
            app.shown.stop("user")
            app.action_leave()
            asked.append(at_work(app)._stop)
        await hand.until(lambda: app.return_code is not None)
    assert asked == ["user"] and app.return_code == 0
    told = capfd.readouterr().err
    assert "saved: checkpoint-1" in told and "goes on without this terminal" not in told


async def test_a_terminal_that_hangs_up_twice_at_once_still_lets_the_run_save(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells the shell, which tells its jobs, and the kernel tells who stood in front again."""
    import os

    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    app = wizard(flags, runner=Scripted(started()))
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.started is not None)
        app._signalled("SIGHUP", 129)
        app._signalled("SIGHUP", 129)
        await hand.until(lambda: app.return_code is not None)
    assert app.return_code == 129 and not left


async def test_what_fails_while_the_wizard_is_being_left_does_not_change_how_it_ends(
    wizard: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = wizard()
    async with driven(app):
        app.action_leave()
        app._handle_exception(NoMatches("the parts of the menu that was just opened have gone"))
    assert app.return_code == 0
    assert "have gone" in caplog.text


@pytest.mark.parametrize("awaited", [False, True])
def test_who_leaves_waits_for_what_is_at_work_and_not_for_an_answer_that_nobody_sees(
    awaited: bool, wizard: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, known, begun = wizard(), threading.Event(), threading.Event()
    answered: list[bool] = []

    def answer() -> None:
        begun.set()
        answered.append(known.wait(60))

    async def asked_and_left() -> int:
        asyncio.get_running_loop().run_in_executor(None, answer)
        await asyncio.to_thread(begun.wait, 60)
        app.awaited = awaited
        if awaited:
            threading.Timer(0.5, known.set).start()
        return 0

    monkeypatch.setattr(app, "run_async", asked_and_left)
    assert opened(app) == 0
    assert answered == ([True] if awaited else [])
    known.set()


async def test_an_export_at_work_is_what_the_program_waits_for(wizard: Make, trained: Path) -> None:
    app = wizard()
    async with driven(app):
        screen = ExportScreen(trained)
        await app.push_screen(screen)
        screen.at_work = True
        app.leave_with_result()
        assert app.awaited


async def test_who_leaves_in_the_moment_in_which_the_run_ends_is_told_how_it_ended(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags, runner=Scripted(started()))
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.started is not None)
        run = app.shown
        run.stop("user")
        run.outcome, run.running = Outcome("stopped", 5, 1.0), False
        run.tell(RunStopped("user", 5, 0.1, "checkpoint-5"), {})  # type: ignore[attr-defined]
        app.action_leave()
        assert "checkpoint-5" in str(app._exit_renderables[-1])
