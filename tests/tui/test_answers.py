"""What is asked first, dataset, model and folder: what is found out of an answer, and what is remembered of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.widgets import Button, Collapsible, Input

from engine.lock import locked
from engine.remembered import Remembered, load_remembered
from tests.conftest import chats, write_jsonl
from tests.tui.conftest import driven
from tests.tui.scripted import Scripted, started, training
from tui.app import LoraTui
from tui.lookups import model_with_template, report_of, report_with_model
from tui.screens import base as base_screen
from tui.screens import dataset as dataset_screen
from tui.screens import model as model_screen
from tui.screens import review as review_screen
from tui.widgets.path_input import PathInput
from tui.widgets.setting import Setting
from tui.wizard import Start

Make = Callable[..., LoraTui]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"messages": [{"role": "user", "content": 3}]}\n', "row 1"),
        ("", "the dataset is empty"),
        ('{"other": 1}\n', "its format is not recognised"),
    ],
)
async def test_a_bad_dataset_closes_the_way_with_the_reason(wizard: Make, tmp_path: Path, content: str, words: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(content)
    app = wizard({"dataset": str(bad)})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows(words))
        await hand.press("ctrl+n")
        assert hand.at("DatasetScreen")


async def test_a_model_folder_without_a_model_closes_the_way(wizard: Make, flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    app = wizard({**flags, "model": "./empty"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("is no model folder"))
        await hand.press("ctrl+n")
        assert hand.at("ModelScreen")


@pytest.mark.parametrize("model", ["./typo", "/nope", "~x/y"])
async def test_a_path_that_is_not_there_is_not_taken_for_one_of_the_hub(
    wizard: Make, flags: dict[str, Any], model: str
) -> None:
    app = wizard({**flags, "model": model})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("there is no such model folder"))
        await hand.press("ctrl+n")
        assert hand.at("ModelScreen")


async def test_an_output_that_is_a_file_closes_the_way(wizard: Make, flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    app = wizard({**flags, "output": "taken"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.go_on("OutputScreen", "context 256")
        await hand.until(lambda: hand.shows("is a file, not a folder"))
        await hand.press("ctrl+n")
        assert hand.at("OutputScreen")


async def test_an_empty_wizard_asks_for_a_dataset(wizard: Make) -> None:
    app = wizard()
    async with driven(app) as hand:
        await hand.press("ctrl+n")
        assert hand.at("DatasetScreen")
        assert hand.shows("Name a dataset, or try the demo.")


async def test_typing_a_path_shows_the_report_without_being_asked(wizard: Make, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", chats(5))
    app = wizard()
    async with driven(app) as hand:
        await hand.press(*"a.jsonl")
        await hand.until(lambda: hand.shows("5 rows · messages"))
        assert hand.shows("assistant: ")


async def test_a_path_that_is_typed_and_confirmed_is_looked_at_once(
    wizard: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "a.jsonl", chats(5))
    read, go_on = [], threading.Event()
    monkeypatch.setattr(base_screen, "PAUSE", 1.0)
    monkeypatch.setattr(
        dataset_screen, "report_of", lambda *given: (read.append(given), go_on.wait(30), report_of(*given))[2]
    )
    async with driven(wizard()) as hand:
        await hand.press(*"a.jsonl", "enter")
        await hand.until(lambda: read)
        await hand.pilot.pause(1.5)
        go_on.set()
        await hand.until(lambda: hand.shows("5 rows · messages"))
    assert len(read) == 1


async def test_a_folder_that_is_picked_in_place_of_one_that_cannot_be_used_leads_on(
    wizard: Make, flags: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    app = wizard({**flags, "output": "taken"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.go_on("OutputScreen", "context 256")
        await hand.until(lambda: hand.shows("is a file, not a folder"))
        field = hand.screen.query_one("#output", PathInput)
        field.focus_input()
        field.value = "out/free"
        field.post_message(PathInput.Settled("out/free"))
        await hand.until(lambda: hand.shows("are free there"))
        assert hand.screen.focused is hand.screen.query_one("#main")


@pytest.mark.parametrize("screen", ["DatasetScreen", "ModelScreen", "OutputScreen"])
async def test_what_was_found_out_of_one_name_does_not_stand_below_another(
    wizard: Make, flags: dict[str, Any], tmp_path: Path, screen: str
) -> None:
    (tmp_path / "taken").write_text("")
    wrong, words, seen = {
        "DatasetScreen": ("no.jsonl", "no.jsonl: there is no such file", "26 rows"),
        "ModelScreen": ("./typo", "there is no such model folder", "context 256"),
        "OutputScreen": ("taken", "is a file, not a folder", "are free there"),
    }[screen]
    app = wizard(flags)
    async with driven(app) as hand:
        for name, last in (("DatasetScreen", "26 rows"), ("ModelScreen", "context 256")):
            if screen != name and hand.at(name):
                await hand.until(lambda last=last: hand.shows(last))
                await hand.press("ctrl+n")
                await hand.until(lambda name=name: not hand.at(name))
        await hand.until(lambda: hand.at(screen) and hand.shows(seen))
        field = hand.screen.query_one(PathInput)
        field.focus_input()
        await hand.press("end", "ctrl+u")
        await hand.until(lambda: not hand.shows(seen))
        await hand.press(*wrong, "enter")
        await hand.until(lambda: hand.shows(words))
        assert hand.screen.focused is field.query_one(Input)  # it is to be mended, Next would be refused
        await hand.press("x")
        await hand.until(lambda: not hand.shows(words))


async def test_a_model_that_cannot_be_used_does_not_leave_the_tokens_being_counted(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard({**flags, "model": "./typo"})
    async with driven(app, (100, 40)) as hand:
        await hand.until(lambda: hand.shows("The tokens cannot be counted: ./typo: there is no such model folder"))
        assert hand.shows("26 rows") and not hand.shows("Counting tokens")


async def test_last_answers_are_offered_again(wizard: Make, flags: dict[str, Any]) -> None:
    known = Remembered({"dataset": flags["dataset"], "model": flags["model"], "epochs": "2"}, (flags["dataset"],))
    app = wizard(remembered=known)
    async with driven(app) as hand:
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        assert app.wizard.planned is not None
        assert app.wizard.planned.config.epochs == 2


async def test_a_started_run_is_remembered_for_the_next_time(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started()))
    async with training(app) as hand:
        await hand.arrive("TrainingScreen")
        await hand.press("s")
        await hand.arrive("ResultScreen")
    found = load_remembered()
    assert found.datasets == (flags["dataset"],)
    assert found.answers["epochs"] == "2"


async def test_the_next_start_offers_to_continue_where_the_last_run_really_went(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    app.wizard.start = Start("fresh")
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.press("f")
        await hand.to_review()
        assert hand.shows("starting fresh in out/w-2")
        await hand.run_to_end()
    again = wizard(remembered=load_remembered())
    async with driven(again) as hand:
        await hand.to_start()
        assert again.wizard.answers["output"] == "out/w-2"
        again.wizard.choose("dataset", "other.jsonl")
        assert "output" not in again.wizard.answers  # it was that of the former dataset


async def test_a_run_at_work_in_the_folder_is_said_where_it_matters(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    words = "lora-tui watch out/w"
    with locked(trained):
        async with driven(app, (100, 30)) as hand:
            await hand.go_on("ModelScreen", "26 rows")
            await hand.go_on("OutputScreen", "context 256 tokens")
            await hand.go_on("StartScreen", words)
            await hand.until(lambda: hand.shows(words))
            await hand.press("c")
            await hand.to_review()
            await hand.until(lambda: hand.shows(words))
            assert hand.screen.query_one("#main", Button).disabled
            await hand.pilot.click("#fresh")
            await hand.until(lambda: hand.at("SettingsScreen"))
            await hand.to_review()
            assert hand.shows("starting fresh in out/w-2") and not hand.shows(words)


async def test_steps_and_memory_are_told_for_the_batch_that_was_asked(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "batch_size": "2", "grad_accum": "3"})
    async with driven(app, (100, 40)) as hand:
        await hand.until(lambda: hand.shows("an epoch: 5 steps of 6 rows"))
        await hand.press("ctrl+n")
        assert app.wizard.report is not None and app.wizard.report.tokens is not None
        longest = min(64, app.wizard.report.tokens.max)
        await hand.until(lambda: hand.shows(f"2 rows of {longest} tokens"))


async def test_what_a_run_takes_does_not_depend_on_how_fast_one_goes_on(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    expect = review_screen.expect
    for place in ("tui.screens.review.expect", "engine.training.expect.expect"):
        monkeypatch.setattr(place, lambda plan, report: (asked.append(report), expect(plan, report))[1])
    app = wizard(flags)
    async with driven(app, (100, 40)) as hand:
        await hand.to_start()
        await hand.press("ctrl+n")
        assert app.wizard.report is not None
        app.wizard.keep(replace(app.wizard.report, tokens=None), None)  # who was too fast for the count
        await hand.to_review()
        await hand.until(lambda: len(asked) == 2)
        assert asked[1].tokens.max > 0
        app.wizard.keep(asked[1], "another model")
        known = app.wizard.report_by("another model")
        assert known is asked[1]
        assert (other := app.wizard.report_by(flags["model"])) is not None and other.tokens is None


async def test_words_of_the_dataset_are_neither_markup_nor_control(wizard: Make, tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "[b]x[/b] \x1b[31mred\x1b]0;t\x07"},
            {"role": "assistant", "content": "[/] ok"},
        ]
    }
    (tmp_path / "odd.jsonl").write_text(json.dumps(row) + "\n")
    app = wizard({"dataset": str(tmp_path / "odd.jsonl")})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("[b]x[/b] ^[[31mred^[]0;t^G"))
        assert hand.shows("[/] ok")


@pytest.mark.parametrize("named", ["out/mine", None])
async def test_a_folder_that_was_named_stays_when_the_model_changes_and_a_proposed_one_goes(
    wizard: Make, flags: dict[str, Any], named: str | None
) -> None:
    app = wizard({"dataset": flags["dataset"], "model": "first"})
    app.wizard.answer("output", named or app.wizard.proposed_output())
    app.wizard.choose("model", flags["model"])
    assert app.wizard.answers.get("output") == named


@pytest.mark.slow
async def test_the_demo_goes_where_the_command_line_says(wizard: Make) -> None:
    app = wizard({"output": "out/elsewhere"}, demo=True)
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "232 rows")
        await hand.go_on("OutputScreen", "context 512")
        await hand.until(lambda: hand.shows("out/elsewhere"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"eval_dataset": "nosplit"}, "There are: none."), ({"target_modules": "qqq"}, "this model has no such layers")],
)
async def test_what_a_setting_names_and_is_not_there_closes_the_review_and_the_setting_is_shown(
    wizard: Make, flags: dict[str, Any], asked: dict[str, str], words: str
) -> None:
    app = wizard({**flags, **asked})
    async with driven(app) as hand:
        await hand.straight_to_review(words)
        await hand.until(lambda: hand.screen.query_one("#main", Button).disabled)
        await hand.press("escape")
        await hand.arrive("SettingsScreen")
        await hand.until(lambda: hand.shows("learning rate"))
        assert not hand.screen.query_one("#more", Collapsible).collapsed


async def test_while_rows_are_counted_for_a_model_it_is_told_how_far_that_is(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large dataset takes minutes, and so does the first import of torch on a slow disk."""
    goes_on, tells = threading.Event(), []

    def counts(dataset: str, model: str, answers: Any, tell: Any) -> Any:
        tells.append(tell)
        goes_on.wait(20)
        return report_with_model(dataset, model, answers, tell)

    monkeypatch.setattr(model_screen, "report_with_model", counts)
    app = wizard(flags)
    async with driven(app, (100, 40)) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("Counting tokens") and tells)
        tells[0](500, 1000, 1.0)
        await hand.until(lambda: hand.shows("500 of 1000 rows tokenised"))
        goes_on.set()
        await hand.until(lambda: hand.shows("26 rows") and not hand.shows("tokenised"))


async def test_while_the_model_is_read_it_is_said(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = threading.Event()

    def slow(*asked: Any) -> Any:
        known.wait(60)
        return model_with_template(*asked)

    monkeypatch.setattr(model_screen, "model_with_template", slow)
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("Reading /"))
        known.set()
        await hand.until(lambda: hand.shows("context 256 tokens"))
        assert not hand.shows("Reading /")


async def test_what_is_still_being_typed_counts_before_the_key_that_goes_on(wizard: Make, flags: dict[str, Any]) -> None:
    """Over a slow line both come at once."""
    app = wizard(flags)
    async with driven(app, (100, 40)) as hand:
        await hand.straight_to_settings()
        (field,) = [one for one in hand.screen.query(Setting) if one.setting == "epochs"]
        field.focus_field()
        await hand.pilot.pause()
        for key in (Key("7", "7"), Key("ctrl+n", None), Key("ctrl+n", None)):
            app.post_message(key)
        await hand.arrive("ReviewScreen")
        await hand.until(lambda: app.wizard.planned is not None)
        assert app.wizard.answers["epochs"] == "7"


async def test_a_path_that_is_still_being_typed_is_looked_at_whole(
    wizard: Make, flags: dict[str, Any], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "mine.jsonl", chats(5))
    app = wizard({"model": flags["model"]})
    async with driven(app) as hand:
        hand.screen.query_one(PathInput).focus_input()
        await hand.pilot.pause()
        for character in "mine.jsonl":
            app.post_message(Key("full_stop" if character == "." else character, character))
        app.post_message(Key("ctrl+n", None))
        await hand.arrive("ModelScreen")
        assert app.wizard.answers["dataset"] == "mine.jsonl"
