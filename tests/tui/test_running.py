"""A run on its screen: its numbers, its curve, its log, and what is told of a jump."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.events import LossJumped
from tests.tui.conftest import at_work
from tests.tui.scripted import Scripted, started, step, training
from tui.app import LoraTui

Make = Callable[..., LoraTui]


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
