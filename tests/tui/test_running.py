"""A run on its screen and what is shown of its end: stopping, jumping, failing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import LoraTuiError, OutputError
from engine.events import LossJumped, ResumeChecked, RunFailed, RunFinished, RunStopped
from engine.journal import read_journal
from engine.resume.plan import ResumePlan
from engine.training.attempt import Outcome
from tests.engine.runs import train
from tests.tui.conftest import at_work, driven
from tests.tui.scripted import Scripted, started, step, training
from tui.app import LoraTui
from tui.at_work import RunAtWork
from tui.widgets.chart import LossChart

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


async def test_a_jump_of_the_loss_is_a_warning_with_ways_on(wizard: Make, flags: dict[str, Any]) -> None:
    jump = LossJumped(20, "divergence", 0.5, 4.0, 8.0, False, causes=("The learning rate is too high for this model.",))
    script = [started(), *(step(n, 0.5) for n in range(1, 20)), jump]
    app = wizard(flags, runner=Scripted(*script))
    async with training(app) as hand:
        await hand.until(lambda: hand.shows("the loss is rising and stays up"))
        assert hand.shows("The learning rate is too high")
        assert hand.shows("b back to the last good checkpoint")
        await hand.press("g")
        await hand.until(lambda: not hand.shows("The learning rate is too high"))
        assert app.shown.running
        await hand.press("s")
        await hand.arrive("ResultScreen")


async def test_one_enter_too_many_does_not_stop_a_run(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0)))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.press("enter")
        await hand.until(lambda: app.shown.live.step is not None)
        await hand.press("l")
        await hand.arrive("LogScreen")
        await hand.press("escape")
        await hand.arrive("TrainingScreen")
        await hand.press("enter")
        assert app.shown.running and not app.shown.live.stopping
        await hand.pilot.click("#main")
        await hand.arrive("ResultScreen")


async def test_back_to_the_last_good_checkpoint_stops_and_offers_it(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    jump = LossJumped(7, "divergence", 0.5, 4.0, 8.0, False)
    app = wizard(flags, runner=Scripted(started(checkpoint="checkpoint-8", step=8), step(9, 4.0), jump))
    async with training(app) as hand:
        await hand.until(lambda: hand.shows("WARNING"))
        await hand.press("b")
        await hand.arrive("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))
        assert hand.shows("Back from the jump at step 7: checkpoint-6 is the last good one")
        assert float(app.wizard.answers["learning_rate"]) == float(flags["learning_rate"]) / 2


@pytest.mark.parametrize("fault", [OutputError("disk full", "no room", "make room"), RuntimeError("a fault of ours")])
async def test_a_run_that_fails_says_what_and_what_to_do(wizard: Make, flags: dict[str, Any], fault: BaseException) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0), fault))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        assert hand.shows(str(fault.args[0]) if not isinstance(fault, LoraTuiError) else fault.title)
        assert not hand.shows("run.log")  # there is none: this runner wrote nothing
        await hand.press("enter")
    assert app.return_code == (5 if isinstance(fault, OutputError) else 1)


@pytest.mark.parametrize("end", [OutputError("disk full"), RunStopped("user", 0, 0.0, None)])
async def test_the_result_offers_only_what_works_and_going_on_does_not_leave(
    wizard: Make, flags: dict[str, Any], end: Any
) -> None:
    failed = isinstance(end, BaseException)
    app = wizard(flags, runner=Scripted(started(), *([end] if failed else []), then=None if failed else end))
    async with training(app) as hand:
        if not failed:
            await hand.until(lambda: app.shown.live.started is not None)
            await hand.press("s")
        await hand.arrive("ResultScreen")
        titles = {command.title for command in app.get_system_commands(hand.screen)}
        assert not titles & {"Next", "Talk to it", "Export"}
        assert not any(words in hand.text().splitlines()[-1] for words in ("Next", "Talk to it", "Export"))
        await hand.press("ctrl+n", "t", "e")
        assert hand.at("ResultScreen") and app.is_running and app.return_code is None


async def test_a_failed_event_is_shown_too(wizard: Make, flags: dict[str, Any]) -> None:
    error = OutputError("disk full")
    app = wizard(flags, runner=Scripted(started(), RunFailed(1, "disk full", "", "", 5), error))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        assert app.shown.live.phase == "failed"


async def test_a_small_terminal_shows_a_sparkline_with_the_numbers(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), *(step(n, 4 / n) for n in range(1, 20))))
    async with training(app) as hand:
        await hand.until(lambda: hand.screen.query_one("#chart").display and hand.shows("┤"))
        await hand.pilot.resize_terminal(44, 16)
        await hand.until(lambda: hand.shows("loss 4.00 to 0.21 · lowest 0.21"))
        assert not hand.screen.query_one("#chart").display
        await hand.pilot.resize_terminal(100, 30)
        await hand.until(lambda: hand.screen.query_one("#chart").display)
        await hand.press("s")


async def test_a_failed_run_can_be_copied_with_its_remedy(wizard: Make, flags: dict[str, Any]) -> None:
    class Logging(Scripted):
        def run(self, plan: ResumePlan, emit: Any, should_stop: Any) -> Outcome:
            plan.output_dir.mkdir(parents=True)
            (plan.output_dir / "run.log").touch()
            return super().run(plan, emit, should_stop)

    error = OutputError("disk full", "no room", "make room")
    app = wizard({**flags, "output": "out/my run"}, runner=Logging(started(), step(1, 1.0), error))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        await hand.press("y")
        await hand.until(lambda: app.clipboard)
        command = "lora-tui --yes --output 'out/my run' --resume auto"
        assert all(words in app.clipboard for words in ("disk full", "no room", "make room", "run.log", command))


async def test_one_enter_too_many_does_not_leave_before_the_result_was_read(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    train(**flags)
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_review()
        await hand.press("enter")
        await hand.arrive("ResultScreen")
        await hand.press("enter")
        await hand.pilot.pause()
        assert hand.at("ResultScreen") and app.return_code is None
        await hand.until(lambda: hand.screen.focused is hand.screen.query_one("#main"))
        assert hand.shows("longer: lora-tui --yes --output out/w --epochs 4")


async def test_a_step_repaints_its_numbers_and_lays_out_nothing(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the screen costs is taken from the training: building the footer anew and laying out everything took a sixth of a processor.
    app = wizard(flags, runner=Scripted(started(), step(1, 0.5)))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: hand.shows("1/100"))
        await hand.pilot.pause(1.2)  # what is due at the beginning has been done
        done: list[str] = []
        screen = app.screen
        monkeypatch.setattr(screen, "refresh_bindings", lambda: done.append("footer"))
        layout = type(screen)._refresh_layout
        monkeypatch.setattr(
            type(screen), "_refresh_layout", lambda *all, **more: (done.append("layout"), layout(*all, **more))
        )
        for number in (2, 3, 4):
            at_work(app).tell(step(number, 0.5), {})
            await hand.until(lambda number=number: hand.shows(f"{number}/100"))  # type: ignore[misc]
        monkeypatch.undo()
        await hand.press("s")
        await hand.arrive("ResultScreen")
    assert done == []


async def test_a_bar_of_progress_in_the_log_is_shown_as_it_was_left(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0)))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        assert app.shown.folder is not None
        app.shown.folder.mkdir(parents=True, exist_ok=True)
        (app.shown.folder / "run.log").write_bytes(b"\rLoading: 0%\rLoading: 100%\r\nwritten on Windows\r\n")
        await hand.press("l")
        await hand.until(lambda: hand.shows("Loading: 100%"))
        assert hand.shows("written on Windows") and not hand.shows("Loading: 0%") and not hand.shows("^M")
        await hand.press("escape", "s")
        await hand.arrive("ResultScreen")


async def test_the_numbers_take_two_lines_again_when_the_terminal_was_made_narrower(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 0.5)))
    async with training(app, (140, 40)) as hand:
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: hand.shows("1/100"))
        await hand.pilot.resize_terminal(80, 24)
        at_work(app).tell(step(2, 0.5), {})
        await hand.until(lambda: hand.shows("2/100"))
        assert app.screen.query_one("#tiles").size.height == 2
        await hand.press("s")
        await hand.arrive("ResultScreen")


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


def item(name: str, verdict: str, expected: str = "a", found: str = "b") -> dict[str, str]:
    return {"item": name, "expected": expected, "found": found, "verdict": verdict, "detail": ""}


RECEIPT = ResumeChecked(
    "checkpoint-8",
    (
        *(item(f"fine_{number}", "ok") for number in range(14)),
        item("schedule", "changed"),
        item("base_model", "unknown", expected=""),
        item("probe_loss", "ok"),
    ),
)


async def test_the_whole_receipt_can_be_read_while_it_trains_and_afterwards(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags, runner=Scripted(started(checkpoint="checkpoint-8", step=8), RECEIPT))
    async with training(app) as hand:
        await hand.until(lambda: hand.shows("r Receipt"))
        for screen in ("TrainingScreen", "ResultScreen"):
            await hand.arrive(screen)
            await hand.press("r")
            await hand.arrive("ReceiptScreen")
            assert hand.shows("fine_0: a → b") and not hand.shows("fine_13")
            await hand.press("end")
            await hand.until(lambda: hand.shows("fine_13: a → b"))
            await hand.press("r")
            await hand.arrive(screen)
            await hand.press("s")


async def test_without_a_receipt_there_is_no_key_for_one(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0)))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        assert not hand.shows("r Receipt")
        await hand.press("s")
        await hand.arrive("ResultScreen")
        assert not hand.shows("r Receipt")


async def test_the_result_keeps_what_was_told_at_the_join(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    jump = LossJumped(9, "reset_at_resume", 0.5, 4.0, 8.0, True, causes=("The rows are other ones.",))
    app = wizard(flags, runner=Scripted(started(checkpoint="checkpoint-8", step=8), RECEIPT, step(9, 4.0), jump))
    async with training(app, (120, 40)) as hand:
        await hand.until(lambda: hand.shows("WARNING"))
        await hand.press("g", "s")
        await hand.arrive("ResultScreen")
        assert hand.shows("since step 9: from 0.50 to 4.00") and hand.shows("The rows are other ones.")
        assert hand.shows("probe_loss: a → b") and hand.shows("schedule: a → b") and not hand.shows("fine_0")


async def test_the_result_of_a_complete_run_shows_where_it_was_continued(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    train(**flags)
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_review()
        await hand.run_to_end()
        assert hand.screen.query_one("#chart", LossChart)._picture.join == 8


async def test_from_a_refused_start_one_goes_back_to_the_settings_of_that_run(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard({**flags, "resume": str(trained / "checkpoint-6")}, runner=Scripted(OutputError("disk full")))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        asked = app.wizard.start
        await hand.until(lambda: hand.shows(" Leave "))
        assert hand.shows(" Settings ") and asked.how == "continue"
        await hand.pilot.click("#settings")
        await hand.arrive("SettingsScreen")
        assert app.wizard.start == asked


@pytest.mark.parametrize(("state", "offered"), [("overfitting", False), ("unknown", False), ("keep_going", True)])
async def test_longer_is_offered_unless_the_advice_is_against_it(
    wizard: Make, flags: dict[str, Any], state: str, offered: bool
) -> None:
    end = RunFinished(20, 2.0, 0.01, None, 1.0, "out/w/final", {"state": state, "message": "what to do"})
    app = wizard(flags, runner=Scripted(started(), then=end))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.press("s")
        await hand.arrive("ResultScreen")
        assert hand.shows("what to do") and hand.shows("longer:") == offered


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
