"""The settings: fields that are told what is wrong with them, explained, and gone through with keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.widgets import Button, Input, Static

from tests.engine.runs import train
from tests.tui.conftest import driven
from tui.app import LoraTui
from tui.widgets.setting import Setting
from tui.wizard import FIRST_SETTINGS, SETTINGS, Start

Make = Callable[..., LoraTui]


async def test_a_bad_value_is_told_at_its_field_and_closes_the_way(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_settings()
        setting = next(one for one in hand.screen.query(Setting) if one.setting == "learning_rate")
        setting.query_one(Input).focus()
        setting.query_one(Input).value = "fast"
        await hand.press("tab")
        await hand.until(lambda: hand.shows("'fast' is not a number"))
        await hand.press("ctrl+n")
        assert hand.at("SettingsScreen")
        assert hand.shows("learning rate: this value cannot be used")
        setting.query_one(Input).value = "1e-4"
        await hand.until(lambda: not hand.shows("cannot be used") and not hand.shows("is not a number"))
        await hand.press("ctrl+n")
        await hand.arrive("ReviewScreen")


async def test_settings_that_contradict_the_run_are_refused_in_the_review(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard({**flags, "lora_r": "4"})
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("these settings contradict what was trained there")
        assert hand.screen.query_one("#main", Button).disabled
        assert hand.screen.query_one("#fresh").display


async def test_the_rest_of_the_settings_is_made_when_it_is_looked_at(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app, (100, 40)) as hand:
        await hand.straight_to_settings()
        assert {one.setting for one in hand.screen.query(Setting)} == {*FIRST_SETTINGS}
        hand.screen.query_one("CollapsibleTitle").focus()
        await hand.press("enter")
        await hand.until(lambda: {one.setting for one in hand.screen.query(Setting)} == {*SETTINGS})
        seed = next(one for one in hand.screen.query(Setting) if one.setting == "seed")
        await hand.until(lambda: seed.query(Input))
        seed.raw = "11"
        await hand.go_on("ReviewScreen", "learning rate")
        assert app.wizard.answers["seed"] == "11"


async def test_those_that_matter_are_seen_first_where_one_of_the_rest_was_answered_too(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags | {"seed": "7"})
    async with driven(app) as hand:
        await hand.straight_to_settings()
        await hand.until(lambda: hand.shows("max steps") and hand.screen.query_one("#body").max_scroll_y > 0)
        await hand.pilot.pause(0.5)
        assert hand.shows("learning rate") and hand.screen.query_one("#body").scroll_y == 0


async def test_f1_explains_the_focused_field(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app, (100, 40)) as hand:
        await hand.straight_to_settings()
        next(one for one in hand.screen.query(Setting) if one.setting == "lora_r").query_one(Input).focus()
        await hand.press("f1")
        await hand.until(lambda: hand.shows("The width of the adapter"))
        await hand.press("escape")
        await hand.arrive("SettingsScreen")


async def test_the_arrows_scroll_what_is_longer_and_lead_from_field_to_field(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows") and hand.screen.query_one("#body").max_scroll_y > 0)
        hand.screen.query_one("#main").focus()
        await hand.press("down", "down", "up")
        await hand.until(lambda: hand.screen.query_one("#body").scroll_y == 1)
        await hand.straight_to_settings()
        await hand.until(lambda: hand.shows("learning rate"))
        fields = [one for one in hand.screen.query(Setting) if one.setting in ("epochs", "learning_rate")]
        fields[0].focus_field()
        await hand.press("down")
        await hand.until(lambda: fields[1] in hand.screen.focused.ancestors)
        await hand.press("up")
        await hand.until(lambda: fields[0] in hand.screen.focused.ancestors)


async def test_who_goes_on_with_a_finished_run_is_asked_for_more_epochs_first(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags | {"epochs": "1"})
    app.wizard.start = Start("continue", trained / "checkpoint-8")
    async with driven(app) as hand:
        await hand.straight_to_review("already complete")
        await hand.press("shift+tab", "enter")  # the button for it
        await hand.arrive("SettingsScreen")
        await hand.until(lambda: hand.shows("with more epochs it goes on"))
        await hand.press("3", "enter", "enter")
        await hand.arrive("ReviewScreen")
        await hand.until(lambda: hand.shows("continuing from checkpoint-8"))
        assert app.wizard.done_by is None


async def test_of_a_finished_run_whose_length_is_a_number_of_steps_more_of_them_are_asked_for(
    wizard: Make, flags: dict[str, Any]
) -> None:
    train(**flags, max_steps=2)
    app = wizard({name: value for name, value in flags.items() if name != "epochs"})
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-2"))
        await hand.press("c")
        for way in ("from the start", "from the review"):
            await hand.arrive("SettingsScreen")
            await hand.until(lambda: app.wizard.done_by == "max_steps" and isinstance(hand.screen.focused, Input))
            await hand.until(lambda: hand.shows("a higher number of max steps"))
            if way == "from the start":
                await hand.press("enter", "enter")
                await hand.arrive("ReviewScreen")
                await hand.until(lambda: hand.shows("already complete"))
                await hand.press("shift+tab", "enter")
        await hand.press("3", "enter", "enter")
        await hand.arrive("ReviewScreen")
        await hand.until(lambda: hand.shows("continuing from checkpoint-2"))


async def test_the_note_of_the_field_one_is_in_is_whole(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_settings()
        await hand.until(lambda: hand.shows("learning rate") and hand.screen.query(Setting))
        (setting,) = [one for one in hand.screen.query(Setting) if one.setting == "batch_size"]
        note = setting.query_one(".note", Static)
        assert note.size.height == 1 and "…" in hand.text()
        setting.focus_field()
        await hand.until(lambda: note.size.height > 1)
        assert setting.query_one(".line").size.height == note.size.height


async def test_a_number_of_a_settings_file_goes_through_the_settings_as_it_is(wizard: Make, flags: dict[str, Any]) -> None:
    """A form that shows six digits of it would answer with those."""
    app = wizard({**flags, "learning_rate": 0.00123456789})
    async with driven(app) as hand:
        await hand.arrive("DatasetScreen")
        app.go_to(4)
        await hand.to_review()
        assert app.wizard.planned is not None and app.wizard.planned.config.learning_rate == 0.00123456789
