"""What is shown of a run's end: how it ended, where it was joined, what can be done next."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CannotContinue, LoraTuiError, OutputError
from engine.events import LossJumped, ResumeChecked, RunFailed, RunFinished, RunStopped
from engine.resume.plan import ResumePlan
from engine.training.attempt import Outcome
from tests.engine.runs import train
from tests.tui.conftest import driven
from tests.tui.scripted import Scripted, started, step, training
from tui.app import LoraTui
from tui.at_work import Shown
from tui.cli import run_parser
from tui.live import Live
from tui.screens.result import farewell
from tui.widgets.buttons import Buttons
from tui.widgets.chart import LossChart

Make = Callable[..., LoraTui]


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


async def test_all_buttons_are_seen_where_they_have_little_room(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), CannotContinue("the receipt failed")))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        for columns in (80, 120, 80):
            await hand.pilot.resize_terminal(columns, 24)
            await hand.until(lambda columns=columns: hand.screen.size.width == columns)  # type: ignore[misc]
            row = hand.screen.query_one(Buttons)
            await hand.until(lambda columns=columns, row=row: row.has_class("-tight") == (columns == 80))  # type: ignore[misc]
            await hand.pilot.pause(0.2)  # and so it stays
            assert row.has_class("-tight") == (columns == 80)
            assert "Leave" in hand.text() and hand.screen.query_one("#main").region.right < columns


async def test_a_failed_event_is_shown_too(wizard: Make, flags: dict[str, Any]) -> None:
    error = OutputError("disk full")
    app = wizard(flags, runner=Scripted(started(), RunFailed(1, "disk full", "", "", 5), error))
    async with training(app) as hand:
        await hand.arrive("ResultScreen")
        assert app.shown.live.phase == "failed"


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


def test_the_commands_of_a_folder_that_begins_as_a_flag_does_are_of_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("-mine")
    folder.mkdir()
    (folder / "run.toml").touch()
    end = RunFinished(20, 2.0, 0.4, None, 1.0, "-mine/final", {"state": "keep_going", "message": "go on"})
    for live in (Live(ended=end), Live(ended=RunStopped("user", 4, 0.4, "checkpoint-4"))):
        (command,) = (line for line in farewell(Shown(folder, live)).plain.splitlines() if "lora-tui --yes" in line)
        assert run_parser().parse_args(shlex.split(command.removeprefix("longer: "))[1:]).output == "-mine"
