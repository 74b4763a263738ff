"""Every way through the wizard, with real training underneath."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.screen import Screen
from textual.widgets import Button, Input, Static

from engine.errors import OutputError
from engine.events import RunStopped, Warned
from engine.remembered import load_remembered
from tests.tui.conftest import at_work, driven
from tests.tui.scripted import Scripted, started, training
from tui.app import LoraTui
from tui.widgets.checkpoint_table import CheckpointTable
from tui.widgets.setting import Setting

Make = Callable[..., LoraTui]


async def test_a_fresh_run_needs_nothing_but_going_on(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.to_start()
        assert hand.shows("a fresh run starts")
        await hand.press("ctrl+n")
        await hand.to_review()
        assert hand.shows("starting fresh in out/w")
        await hand.run_to_end()
        assert hand.shows("done · step 14")
        assert hand.shows("adapter: out/w/final")
    assert Path("out/w/final/adapter_model.safetensors").is_file()


async def test_enter_alone_finishes_it(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        for name, seen in (
            ("ModelScreen", "26 rows"),
            ("OutputScreen", "context 256"),
            ("StartScreen", "are free there"),
            ("SettingsScreen", "a fresh run starts"),
            ("ReviewScreen", "learning rate"),
            ("TrainingScreen", "the same without the wizard"),
        ):
            await hand.until(lambda seen=seen: hand.shows(seen))
            await hand.press("enter")
            await hand.until(lambda name=name: hand.at(name) or hand.at("ResultScreen"))
        await hand.arrive("ResultScreen")


async def test_continuing_takes_the_furthest_and_shows_the_receipt(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app, (140, 40)) as hand:
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        assert hand.shows("Continue from checkpoint-8")
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-8")
        await hand.run_to_end()
        assert hand.shows("done · step 14")
        assert hand.shows("items restored as saved")
        assert app.shown.live.receipt is not None
        assert all(item["verdict"] == "ok" for item in app.shown.live.receipt.items)
        assert app.shown.live.join == 8
        assert [step for step, _loss in app.shown.live.history.points] == list(range(1, 9))


async def test_back_and_forth_keeps_the_answers(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_settings()
        setting = next(one for one in hand.screen.query(Setting) if one.setting == "epochs")
        setting.query_one(Input).value = "5"
        for name in ("StartScreen", "OutputScreen", "ModelScreen", "DatasetScreen"):
            await hand.press("escape")
            await hand.arrive(name)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        assert app.wizard.answers["epochs"] == "5"
        assert app.wizard.planned is not None
        assert app.wizard.planned.config.epochs == 5


async def test_the_rail_takes_back_to_a_finished_step(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.to_start()
        await hand.pilot.click("RailStep", offset=(3, 0))
        await hand.arrive("DatasetScreen")


async def test_the_theme_is_remembered(wizard: Make) -> None:
    app = wizard()
    async with app.run_test() as pilot:
        app.theme = "textual-light"
        await pilot.pause()
    assert load_remembered().look["theme"] == "textual-light"


@pytest.mark.parametrize("size", [(80, 24), (60, 16), (200, 60)])
async def test_every_size_can_be_resized_to_in_the_middle(
    wizard: Make, flags: dict[str, Any], trained: Path, size: tuple[int, int]
) -> None:
    app = wizard(flags)
    async with driven(app, (100, 30)) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.pilot.resize_terminal(*size)
        await hand.pilot.pause()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        assert all(len(line) <= size[0] for line in hand.text().splitlines())


async def test_the_palette_reaches_every_key_of_the_screen(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        titles = {command.title for command in app.get_system_commands(hand.screen)}
        assert {"Next", "Back", "Help", "Go on", "Weights", "Fresh", "Trash", "Quit", "Theme"} <= titles


async def test_a_command_of_the_palette_that_is_taken_twice_at_once_counts_once(wizard: Make) -> None:
    app = wizard()
    async with driven(app) as hand:
        await hand.press("ctrl+p", *"help")
        await hand.until(lambda: hand.shows("key: f1") and not hand.shows("key: ctrl+n"))
        await hand.press("down")
        field = hand.screen.query_one(Input)
        for _time in range(2):
            field.post_message(Input.Submitted(field, field.value))
        await hand.arrive("HelpScreen")
        assert [type(one).__name__ for one in app.screen_stack] == ["DatasetScreen", "HelpScreen"]


async def test_a_dialog_that_is_answered_twice_at_once_leaves_the_step_below(wizard: Make) -> None:
    app = wizard()
    async with driven(app) as hand:
        await hand.press("f1")
        await hand.arrive("HelpScreen")
        for _time in range(2):
            hand.screen.query_one("#close-help", Button).press()
        await hand.arrive("DatasetScreen")


async def test_f1_explains_the_dialog_that_browses(wizard: Make) -> None:
    app = wizard()
    async with driven(app, (100, 40)) as hand:
        await hand.press("ctrl+o")
        await hand.arrive("FileBrowser")
        await hand.press("f1")
        await hand.until(lambda: hand.shows("Enter opens a folder"))
        await hand.press("escape")
        await hand.arrive("FileBrowser")
        await hand.press("escape")
        await hand.arrive("DatasetScreen")


async def test_what_is_longer_than_the_screen_is_scrolled_from_anywhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    (trained / "run.log").write_text("\n".join(f"line {number}." for number in range(200)))
    script = [started(output_dir=str(trained)), *(Warned("x", f"word {number}.") for number in range(100))]
    app = wizard(flags, runner=Scripted(*script))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        body, offers = hand.screen.query_one("#body"), hand.screen.query_one("OptionList")
        for focused in (hand.screen.query_one("#main"), hand.screen.query_one("Input"), offers):
            focused.focus()
            await hand.press("ctrl+end")
            assert body.scroll_y == body.max_scroll_y > 0
            await hand.press("pageup")
            assert body.scroll_y < body.max_scroll_y
            await hand.press("ctrl+home")
            assert body.scroll_y == 0
        await hand.press("f1")
        await hand.arrive("HelpScreen")
        text = hand.screen.query_one("VerticalScroll")
        await hand.press("pagedown")
        assert text.scroll_y > 0
        await hand.press("enter")
        await hand.to_start()
        table = hand.screen.query_one("#table", CheckpointTable)
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        await hand.press("pagedown")  # a table turns its own pages
        assert table.cursor_row == table.row_count - 1
        await hand.press("ctrl+home", "ctrl+n")
        await hand.to_review()
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("word 99."))
        await hand.press("pageup")
        assert not hand.shows("word 99.")
        for number in range(100, 105):  # it is not pulled away from who reads
            at_work(app).tell(Warned("x", f"word {number}."), {})
        await hand.until(lambda: len(app.shown.live.happenings) == 106)
        assert not hand.shows("word 104.")
        await hand.press("ctrl+end")
        await hand.until(lambda: hand.shows("word 104."))
        at_work(app).tell(Warned("x", "word 105."), {})
        await hand.until(lambda: hand.shows("word 105."))
        await hand.press("l")
        await hand.until(lambda: hand.shows("line 199."))
        await hand.press("pageup")
        await hand.until(lambda: not hand.shows("line 199."))
        await hand.press("escape", "s")
        await hand.arrive("ResultScreen")


async def test_a_key_pressed_once_is_one_step(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), OutputError("disk full")))
    entered, left = [], []
    app.go_to = lambda step, go_to=app.go_to: (entered.append(step), go_to(step))  # type: ignore[method-assign]
    app.exit = lambda *given, leave=app.exit, **named: (left.append(given), leave(*given, **named))  # type: ignore[method-assign]
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        for name, seen in (("ModelScreen", "26 rows"), ("OutputScreen", "context 256"), ("StartScreen", "are free there"),
                           ("SettingsScreen", "a fresh run starts"), ("ReviewScreen", "learning rate")):  # fmt: skip
            await hand.until(lambda seen=seen: hand.shows(seen))
            await hand.press("enter")
            await hand.arrive(name)
        await hand.until(lambda: hand.shows("the same without the wizard"))
        await hand.press("enter")
        await hand.arrive("ResultScreen")
        assert entered == [1, 2, 3, 4, 5, 6]
        await hand.press("enter")
        assert len(left) == 1


async def test_a_key_that_comes_before_the_first_step_stands_waits_for_it(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    first = app.get_default_screen

    def typed_ahead() -> Screen[Any]:
        app.post_message(Key("ctrl+n", "\x0e"))
        return first()

    app.get_default_screen = typed_ahead  # type: ignore[method-assign]
    async with driven(app) as hand:
        await hand.arrive("ModelScreen")


async def test_the_terminals_cursor_is_in_the_field_before_anything_was_typed(wizard: Make) -> None:
    app = wizard()
    async with driven(app) as hand:
        field = hand.screen.query_one(Input)
        await hand.until(lambda: app.cursor_position == field.cursor_screen_offset)
        hand.screen.query_one("#last", Static).update("a line above it")
        hand.screen.query_one("#last").display = True
        await hand.until(lambda: field.content_region.y == 4 and app.cursor_position == field.cursor_screen_offset)


async def test_who_goes_back_can_type_another_answer_at_once(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.press("escape")
        await hand.arrive("DatasetScreen")
        await hand.until(lambda: hand.shows("26 rows"))
        assert isinstance(hand.screen.focused, Input)


async def test_a_stopped_run_says_where_its_loss_stands_and_what_is_left(wizard: Make, flags: dict[str, Any]) -> None:
    end = RunStopped(7, 1.0, "user", "checkpoint-7", 1.0, 0.75, {"state": "keep_going", "message": "keep going then"})
    app = wizard(flags, runner=Scripted(started(), then=end))
    async with training(app) as hand:
        await hand.until(lambda: app.shown.live.started is not None)
        await hand.press("s")
        await hand.arrive("ResultScreen")
        assert hand.shows("loss 0.75 · 1.00 epochs left") and hand.shows("keep going then")


async def test_the_result_has_keys_for_going_on_and_for_another_dataset(wizard: Make, flags: dict[str, Any]) -> None:
    end = RunStopped(7, 1.0, "user", "checkpoint-7", 1.0, 0.75, {"state": "keep_going", "message": "keep going then"})
    app = wizard(flags, runner=Scripted(started(), then=end))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.press("s")
        await hand.arrive("ResultScreen")
        await hand.press("c")
        await hand.arrive("StartScreen")
        app.go_to(6)
        await hand.arrive("ResultScreen")
        await hand.press("n")
        await hand.arrive("DatasetScreen")
