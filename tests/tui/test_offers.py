"""What the first step offers before anything was typed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key, Paste
from textual.widgets import Input, OptionList, Select

from engine.data.files import MOST_OFFERED, data_files
from engine.models.local import WELL_KNOWN, LocalModel
from engine.remembered import Remembered
from tests.conftest import chats, write_jsonl
from tests.engine.runs import train
from tests.tui.conftest import driven
from tui.app import LoraTui
from tui.screens import model as model_screen


async def test_a_data_file_of_the_current_folder_is_chosen_without_typing(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard()
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("mine.jsonl"))
        await hand.press("tab", "tab", "down", "enter")
        await hand.until(lambda: hand.shows("5 rows · messages"))


def test_files_are_offered_newest_first_and_not_too_many(tmp_path: Path) -> None:
    for number in range(MOST_OFFERED + 3):
        (tmp_path / f"{number}.jsonl.gz").touch()
        os.utime(tmp_path / f"{number}.jsonl.gz", (number, number))
    names = [name for name, _size in data_files(tmp_path)]
    assert names == [f"{number}.jsonl.gz" for number in range(MOST_OFFERED + 2, 2, -1)]


def test_nothing_hidden_no_folder_and_no_other_file_is_offered(tmp_path: Path) -> None:
    (tmp_path / ".hidden.jsonl").touch()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").touch()
    assert data_files(tmp_path) == ()


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert data_files(tmp_path / "gone") == ()


async def test_a_run_that_was_interrupted_is_offered_and_taken_up_with_one_button(
    flags: dict[str, Any], trained: Path, wizard: Callable[..., LoraTui]
) -> None:
    app = wizard(remembered=Remembered(answers={**flags, "output": str(trained)}))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("The last run, out/w: stopped · step 8/14"))
        await hand.pilot.click("#continue")
        await hand.arrive("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-8")


async def test_the_menu_reaches_the_buttons_of_the_first_step(
    flags: dict[str, Any], trained: Path, wizard: Callable[..., LoraTui]
) -> None:
    app = wizard(remembered=Remembered(answers={**flags, "output": str(trained)}))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("Continue the last run"))
        commands = {command.title: command.callback for command in app.get_system_commands(hand.screen)}
        assert "Try the demo" in commands
        commands["Continue the last run"]()
        await hand.arrive("StartScreen")


@pytest.mark.parametrize("answered", ["dataset", "model", "output"])
async def test_who_has_asked_for_something_is_not_offered_the_last_run(
    answered: str, flags: dict[str, Any], trained: Path, wizard: Callable[..., LoraTui]
) -> None:
    app = wizard({answered: flags[answered]}, remembered=Remembered(answers={**flags, "output": str(trained)}))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        assert not hand.shows("The last run")


async def test_a_run_that_came_to_its_end_is_not_offered(flags: dict[str, Any], wizard: Callable[..., LoraTui]) -> None:
    train(**{**flags, "epochs": 1})
    app = wizard(remembered=Remembered(answers=flags))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        assert not hand.shows("The last run")


async def test_files_of_the_current_folder_are_offered_beside_what_was_used_before_and_none_twice(
    wizard: Callable[..., LoraTui], tmp_path: Path
) -> None:
    for name in ("mine.jsonl", "other.jsonl", "new.jsonl"):
        write_jsonl(tmp_path / name, chats(5))
    used = ("mine.jsonl", str(tmp_path / "other.jsonl"))
    app = wizard(remembered=Remembered(answers={"dataset": "mine.jsonl"}, datasets=used))
    async with driven(app, (140, 40)) as hand:
        await hand.until(lambda: hand.shows("new.jsonl"))
        offered = hand.screen.query_one("#dataset OptionList", OptionList)
        assert offered.option_count == 2, "without the one that stands in the field"
        hand.screen.query_one("#dataset Input", Input).value = "new.jsonl"
        await hand.until(lambda: offered.option_count == 2 and hand.shows("mine.jsonl"))


async def test_who_has_no_model_is_offered_some_that_would_be_fetched(
    wizard: Callable[..., LoraTui], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", "no-cache")
    monkeypatch.setattr(model_screen, "cached_models", tuple)
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard({"dataset": "mine.jsonl"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "5 rows")
        await hand.until(lambda: hand.shows("Qwen/Qwen3-0.6B  about 1.5 GB to fetch from the hub"))
        await hand.press("tab", "tab", "down", "enter")
        await hand.until(lambda: hand.shows("is not on this machine"))
        assert not hand.screen.query_one("#closed").display, "a run fetches it: that is no error"
        await hand.press("enter")
        await hand.arrive("OutputScreen")


def test_the_models_that_help_names_are_those_that_are_offered() -> None:
    named = re.findall(r"[A-Z]\w+/[A-Z][\w.-]*\w", model_screen.ModelScreen.HELP_TEXT)
    assert named and {*named} <= dict(WELL_KNOWN).keys()


async def test_a_path_typed_while_an_answer_is_remembered_goes_into_the_field(wizard: Callable[..., LoraTui]) -> None:
    for name, count in (("mine.jsonl", 5), ("other.jsonl", 7)):
        write_jsonl(Path(name), chats(count))
    app = wizard(remembered=Remembered(answers={"dataset": "mine.jsonl"}))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("5 rows · messages") and hand.screen.focused is hand.screen.query_one("#main"))
        await hand.press(*"other.jsonl")
        assert hand.screen.query_one("#dataset Input", Input).value == "other.jsonl"
        await hand.until(lambda: hand.shows("7 rows · messages"))


async def test_a_path_typed_faster_than_the_focus_moves_is_whole(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard(remembered=Remembered(answers={"dataset": "mine.jsonl"}))
    async with driven(app) as hand:
        main = hand.screen.query_one("#main")
        await hand.until(lambda: hand.shows("5 rows · messages") and hand.screen.focused is main)
        for character in "my other.jsonl":
            main.post_message(Key("space" if character == " " else character, character))
        await hand.until(lambda: hand.screen.query_one("#dataset Input", Input).value == "my other.jsonl")


async def test_a_path_pasted_beside_the_field_goes_into_it(wizard: Callable[..., LoraTui]) -> None:
    for name, count in (("mine.jsonl", 5), ("other.jsonl", 7)):
        write_jsonl(Path(name), chats(count))
    app = wizard(remembered=Remembered(answers={"dataset": "mine.jsonl"}))
    async with driven(app) as hand:
        main = hand.screen.query_one("#main")
        await hand.until(lambda: hand.shows("5 rows · messages") and hand.screen.focused is main)
        main.post_message(Paste("other.jsonl"))
        await hand.until(lambda: hand.shows("7 rows · messages"))


async def test_what_is_typed_at_how_it_is_read_does_not_change_the_path(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard({"dataset": "mine.jsonl", "format": "messages"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("5 rows · messages") and hand.screen.query(Select))
        hand.screen.query_one(Select).focus()
        await hand.press("x")
        assert hand.screen.query_one("#dataset Input", Input).value == "mine.jsonl"


async def test_down_leads_from_the_field_into_the_offers_and_up_back(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard()
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("mine.jsonl"))
        await hand.press("down", "up")
        assert isinstance(hand.screen.focused, Input)
        await hand.press("down", "enter")
        await hand.until(lambda: hand.shows("5 rows · messages"))


async def test_the_dialog_that_browses_is_opened_from_the_main_button_too(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard(remembered=Remembered(answers={"dataset": "mine.jsonl"}))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("5 rows · messages") and hand.screen.focused is hand.screen.query_one("#main"))
        assert hand.shows("^o Browse")
        await hand.press("ctrl+o")
        await hand.arrive("FileBrowser")


async def test_a_model_in_the_cache_is_offered_with_its_size_and_when_it_was_used(
    wizard: Callable[..., LoraTui], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = LocalModel("some/model", 988_000_000, 1_700_000_000.0)
    monkeypatch.setattr(model_screen, "cached_models", lambda: (kept,))
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard({"dataset": "mine.jsonl"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "5 rows")
        await hand.until(lambda: hand.shows("some/model  988 MB · last used 2023-11-1"))


async def test_a_folder_of_data_is_browsed_for_too(wizard: Callable[..., LoraTui]) -> None:
    Path("rows").mkdir()
    write_jsonl(Path("rows") / "train.jsonl", chats(5))
    app = wizard()
    async with driven(app) as hand:
        hand.screen.query_one("#dataset Input", Input).value = "rows"
        await hand.press("ctrl+o")
        await hand.arrive("FileBrowser")
        await hand.until(lambda: hand.shows("This folder") and hand.shows("train.jsonl"))
        await hand.pilot.click("#folder")
        await hand.until(lambda: hand.at("DatasetScreen") and hand.shows("5 rows · messages"))
