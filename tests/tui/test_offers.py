"""What the first step offers before anything was typed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.data.files import MOST_OFFERED, data_files
from engine.remembered import Remembered
from tests.conftest import chats, write_jsonl
from tests.engine.runs import train
from tests.tui.conftest import Hand
from tui.app import LoraTui


async def test_a_data_file_of_the_current_folder_is_chosen_without_typing(wizard: Callable[..., LoraTui]) -> None:
    write_jsonl(Path("mine.jsonl"), chats(5))
    app = wizard()
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows("The last run, out/w: stopped · step 8/14"))
        await pilot.click("#continue")
        await hand.arrive("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-8")


@pytest.mark.parametrize("answered", ["dataset", "model", "output"])
async def test_who_has_asked_for_something_is_not_offered_the_last_run(
    answered: str, flags: dict[str, Any], trained: Path, wizard: Callable[..., LoraTui]
) -> None:
    app = wizard({answered: flags[answered]}, remembered=Remembered(answers={**flags, "output": str(trained)}))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows("26 rows"))
        assert not hand.shows("The last run")


async def test_a_run_that_came_to_its_end_is_not_offered(flags: dict[str, Any], wizard: Callable[..., LoraTui]) -> None:
    train(**{**flags, "epochs": 1})
    app = wizard(remembered=Remembered(answers=flags))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows("26 rows"))
        assert not hand.shows("The last run")
