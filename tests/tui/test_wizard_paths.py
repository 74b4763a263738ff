"""Every way through the wizard, with real training underneath."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Button, Input

from engine.errors import LoraTuiError, OutputError
from engine.events import LossJumped, RunFailed, RunStarted, RunStopped, Step, Warned, read_journal
from engine.folder import locked
from engine.remembered import Remembered, load_remembered
from engine.resume.plan import ResumePlan
from engine.training.attempt import Outcome
from tests.conftest import chats, write_jsonl
from tests.engine.runs import train
from tests.tui.conftest import Hand
from tui.app import LoraTui
from tui.cli import run_parser
from tui.messages import Told
from tui.screens import review as review_screen
from tui.screens.settings import Setting
from tui.widgets.checkpoint_table import CheckpointTable
from tui.widgets.path_input import PathInput
from tui.wizard import Start

Make = Callable[..., LoraTui]


async def test_a_fresh_run_needs_nothing_but_going_on(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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
    async with app.run_test(size=(140, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        assert hand.shows("Continue from checkpoint-8")
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-8")
        await hand.run_to_end()
        assert hand.shows("done · step 14")
        assert app.live.receipt is not None
        assert all(item["verdict"] == "ok" for item in app.live.receipt.items)
        assert app.live.join == 8
        assert [step for step, _loss in app.live.history.points] == list(range(1, 9))


async def test_another_than_the_recommended_branches_off(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-6"))
        await hand.press("down", "c")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-6")
        await hand.run_to_end()
    assert Path("out/w-2/checkpoint-14").is_dir()
    assert not Path("out/w/checkpoint-14").exists()


async def test_the_cursor_is_never_on_the_line_of_a_run(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    train(stop_at=5, **{**flags, "output": "out/other"})
    Path("out/other/checkpoint-5").rename(trained / "checkpoint-5")
    app = wizard(flags)
    async with app.run_test(size=(140, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        table = hand.screen.query_one("#table", CheckpointTable)
        rows = [row.key.value or "" for row in table.ordered_rows]
        headings = [number for number, key in enumerate(rows) if key.startswith("run:")]
        assert headings == [0, len(rows) - 2]
        for keys in (["up"], ["down"] * (len(rows) - 3), ["down"], ["up"], ["home"], ["end"], ["pageup"], ["pagedown"]):
            await hand.press(*keys)
            assert table.chosen is not None
        await pilot.click("#table", offset=(5, 1 + headings[1]))
        await pilot.click("#table", offset=(5, 1 + headings[1]))
        assert hand.at("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-5"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-5")


async def test_the_main_button_says_what_it_does_with_weights_from_elsewhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard({**flags, "output": "out/new", "init_from": str(trained / "checkpoint-8")})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("Start from these weights"))


async def test_new_run_from_weights(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("w")
        await hand.to_review()
        assert hand.shows("from the weights of")
        await hand.run_to_end()
        assert app.live.join is None
    assert Path("out/w-2/final").is_dir()


async def test_fresh_beside_a_run_goes_to_a_new_folder(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    before = sorted(path.name for path in trained.iterdir())
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("f")
        await hand.to_review()
        assert hand.shows("starting fresh in out/w-2")
        await hand.press("escape")
        await hand.arrive("SettingsScreen")
    assert sorted(path.name for path in trained.iterdir()) == before


async def test_trash_and_undo_move_one_checkpoint_and_bring_it_back(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        whole = (trained / "checkpoint-8" / "manifest.json").read_bytes()
        await hand.press("d")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        assert not (trained / "checkpoint-8").exists()
        await hand.press("z")
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        assert (trained / "checkpoint-8" / "manifest.json").read_bytes() == whole


async def test_what_was_put_into_the_trash_can_be_taken_back_after_going_elsewhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        await hand.press("d")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        await hand.press("escape")
        await hand.go_on("StartScreen", "are free there")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        await hand.press("z")
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        app.wizard.answer("output", "out/elsewhere")
        app.wizard.trashed.append(trained / ".trash" / "checkpoint-8.1")
        app.go_to(3)
        await hand.until(lambda: hand.shows("a fresh run starts"))
        assert not hand.screen.query_one("#undo").display  # it lies in another folder


async def test_a_broken_checkpoint_cannot_be_continued_and_says_why(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    weights = trained / "checkpoint-8" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    app = wizard(flags)
    async with app.run_test(size=(140, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))
        assert hand.shows("Passed over checkpoint-8")
        await hand.press("up")
        await hand.until(lambda: hand.shows("broken: It is broken."))
        assert hand.screen.query_one("#main", Button).disabled
        await hand.press("c")
        await hand.press("ctrl+n")
        assert hand.at("StartScreen")
        assert hand.shows("This one cannot be continued")


async def test_back_and_forth_keeps_the_answers(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.arrive("SettingsScreen")
        await hand.until(lambda: hand.screen.query(Setting))
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await pilot.click("RailStep", offset=(3, 0))
        await hand.arrive("DatasetScreen")


async def test_a_bad_value_is_told_at_its_field_and_closes_the_way(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.arrive("SettingsScreen")
        await hand.until(lambda: hand.screen.query(Setting))
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows(words))
        await hand.press("ctrl+n")
        assert hand.at("DatasetScreen")


async def test_a_model_folder_without_a_model_closes_the_way(wizard: Make, flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    app = wizard({**flags, "model": "./empty"})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("is no model folder"))
        await hand.press("ctrl+n")
        assert hand.at("ModelScreen")


@pytest.mark.parametrize("model", ["./typo", "/nope", "~x/y"])
async def test_a_path_that_is_not_there_is_not_taken_for_one_of_the_hub(
    wizard: Make, flags: dict[str, Any], model: str
) -> None:
    app = wizard({**flags, "model": model})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.shows("there is no such model folder"))
        await hand.press("ctrl+n")
        assert hand.at("ModelScreen")


async def test_an_output_that_is_a_file_closes_the_way(wizard: Make, flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    app = wizard({**flags, "output": "taken"})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.go_on("ModelScreen", "26 rows")
        await hand.go_on("OutputScreen", "context 256")
        await hand.until(lambda: hand.shows("cannot write here"))
        await hand.press("ctrl+n")
        assert hand.at("OutputScreen")


async def test_settings_that_contradict_the_run_are_refused_in_the_review(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard({**flags, "lora_r": "4"})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("these settings contradict what was trained there")
        assert hand.screen.query_one("#main", Button).disabled
        assert hand.screen.query_one("#fresh").display


async def test_stop_and_save_keeps_the_step_and_can_be_continued(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "epochs": "400"})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        await hand.press("ctrl+n")
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: app.live.step is not None and app.live.step.step >= 4)
        await hand.press("s")
        await hand.arrive("ResultScreen")
        assert hand.shows("stopped at step")
        stopped = app.live.ended.step  # type: ignore[union-attr]
        await hand.press("enter")
    assert app.return_code == 0
    assert Path(f"out/w/checkpoint-{stopped}/manifest.json").is_file()


async def test_quitting_while_it_trains_asks_and_saves(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "epochs": "400"})
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        await hand.press("ctrl+n")
        await hand.arrive("TrainingScreen")
        await hand.until(lambda: app.live.step is not None)
        await hand.press("ctrl+q")
        await hand.arrive("QuitScreen")
        await hand.press("escape")
        await hand.arrive("TrainingScreen")
        assert app.running
        await hand.press("ctrl+q")
        await hand.arrive("QuitScreen")
        await hand.press("tab", "enter")
        await hand.until(lambda: not app.running)
    assert app.return_code == 0
    (last,) = [record for record in read_journal(Path("out/w")) if record["type"] == "run_stopped"]
    assert Path(f"out/w/checkpoint-{last['step']}").is_dir()


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


async def training(app: LoraTui, pilot: Any) -> Hand:
    hand = Hand(app, pilot)
    await hand.to_start()
    await hand.press("ctrl+n")
    await hand.to_review()
    await hand.press("ctrl+n")
    return hand


async def test_a_jump_of_the_loss_is_a_warning_with_ways_on(wizard: Make, flags: dict[str, Any]) -> None:
    jump = LossJumped(20, "divergence", 0.5, 4.0, 8.0, False, causes=("The learning rate is too high for this model.",))
    script = [started(), *(step(n, 0.5) for n in range(1, 20)), jump]
    app = wizard(flags, runner=Scripted(*script))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.until(lambda: hand.shows("the loss is rising and stays up"))
        assert hand.shows("The learning rate is too high")
        assert hand.shows("b back to the last good checkpoint")
        await hand.press("g")
        await hand.until(lambda: not hand.shows("The learning rate is too high"))
        assert app.running
        await hand.press("s")
        await hand.arrive("ResultScreen")


async def test_one_enter_too_many_does_not_stop_a_run(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0)))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.arrive("TrainingScreen")
        await hand.press("enter")
        await hand.until(lambda: app.live.step is not None)
        await hand.press("l")
        await hand.arrive("LogScreen")
        await hand.press("escape")
        await hand.arrive("TrainingScreen")
        await hand.press("enter")
        assert app.running and not app.live.stopping
        await pilot.click("#main")
        await hand.arrive("ResultScreen")


async def test_back_to_the_last_good_checkpoint_stops_and_offers_it(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    jump = LossJumped(7, "divergence", 0.5, 4.0, 8.0, False)
    app = wizard(flags, runner=Scripted(started(checkpoint="checkpoint-8", step=8), step(9, 4.0), jump))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.until(lambda: hand.shows("WARNING"))
        await hand.press("b")
        await hand.arrive("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))


@pytest.mark.parametrize("fault", [OutputError("disk full", "no room", "make room"), RuntimeError("a fault of ours")])
async def test_a_run_that_fails_says_what_and_what_to_do(wizard: Make, flags: dict[str, Any], fault: BaseException) -> None:
    app = wizard(flags, runner=Scripted(started(), step(1, 1.0), fault))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        if not failed:
            await hand.until(lambda: app.live.started is not None)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.arrive("ResultScreen")
        assert app.live.phase == "failed"


async def test_an_empty_wizard_asks_for_a_dataset(wizard: Make) -> None:
    app = wizard()
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("ctrl+n")
        assert hand.at("DatasetScreen")
        assert hand.shows("Name a dataset, or try the demo.")


async def test_typing_a_path_shows_the_report_without_being_asked(wizard: Make, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", chats(5))
    app = wizard()
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press(*"a.jsonl")
        await hand.until(lambda: hand.shows("5 rows · messages"))
        assert hand.shows("assistant: ")


@pytest.mark.parametrize("screen", ["DatasetScreen", "ModelScreen", "OutputScreen"])
async def test_what_was_found_out_of_one_name_does_not_stand_below_another(
    wizard: Make, flags: dict[str, Any], tmp_path: Path, screen: str
) -> None:
    (tmp_path / "taken").write_text("")
    wrong, words, seen = {
        "DatasetScreen": ("no.jsonl", "no.jsonl: there is no such file", "26 rows"),
        "ModelScreen": ("./typo", "there is no such model folder", "context 256"),
        "OutputScreen": ("taken", "cannot write here", "are free there"),
    }[screen]
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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
    async with app.run_test(size=(100, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows("The tokens cannot be counted: ./typo: there is no such model folder"))
        assert hand.shows("26 rows") and not hand.shows("Counting tokens")


async def test_last_answers_are_offered_again(wizard: Make, flags: dict[str, Any]) -> None:
    known = Remembered({"dataset": flags["dataset"], "model": flags["model"], "epochs": "2"}, (flags["dataset"],))
    app = wizard(remembered=known)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        assert app.wizard.planned is not None
        assert app.wizard.planned.config.epochs == 2


async def test_a_started_run_is_remembered_for_the_next_time(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started()))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("f")
        await hand.to_review()
        assert hand.shows("starting fresh in out/w-2")
        await hand.run_to_end()
    again = wizard(remembered=load_remembered())
    async with again.run_test(size=(80, 24)) as pilot:
        hand = Hand(again, pilot)
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
        async with app.run_test(size=(100, 30)) as pilot:
            hand = Hand(app, pilot)
            await hand.go_on("ModelScreen", "26 rows")
            await hand.go_on("OutputScreen", "context 256 tokens")
            await hand.go_on("StartScreen", words)
            await hand.until(lambda: hand.shows(words))
            await hand.press("c")
            await hand.to_review()
            await hand.until(lambda: hand.shows(words))
            assert hand.screen.query_one("#main", Button).disabled
            await pilot.click("#fresh")
            await hand.until(lambda: hand.at("SettingsScreen"))
            await hand.to_review()
            assert hand.shows("starting fresh in out/w-2") and not hand.shows(words)


async def test_the_theme_is_remembered(wizard: Make) -> None:
    app = wizard()
    async with app.run_test() as pilot:
        app.theme = "textual-light"
        await pilot.pause()
    assert load_remembered().look["theme"] == "textual-light"


async def test_hundreds_of_checkpoints_open_without_a_visible_wait(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    import shutil

    for number in range(1000, 1300):
        shutil.copytree(trained / "checkpoint-3" if (trained / "checkpoint-3").is_dir() else trained / "checkpoint-6",
                        trained / f"checkpoint-{number}", copy_function=lambda a, b: Path(b).hardlink_to(a))  # fmt: skip
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.screen.query_one("#table").row_count > 300)
        await hand.press("end", "home", "down")


@pytest.mark.parametrize("size", [(80, 24), (60, 16), (200, 60)])
async def test_every_size_can_be_resized_to_in_the_middle(
    wizard: Make, flags: dict[str, Any], trained: Path, size: tuple[int, int]
) -> None:
    app = wizard(flags)
    async with app.run_test(size=(100, 30)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await pilot.resize_terminal(*size)
        await pilot.pause()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        assert all(len(line) <= size[0] for line in hand.text().splitlines())


async def test_the_palette_reaches_every_key_of_the_screen(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        titles = {command.title for command in app.get_system_commands(hand.screen)}
        assert {"Next", "Back", "Help", "Go on", "Weights", "Fresh", "Trash", "Quit", "Theme"} <= titles


async def test_f1_explains_the_focused_field(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with app.run_test(size=(100, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.arrive("SettingsScreen")
        await hand.until(lambda: hand.screen.query(Setting))
        next(one for one in hand.screen.query(Setting) if one.setting == "lora_r").query_one(Input).focus()
        await hand.press("f1")
        await hand.until(lambda: hand.shows("The width of the adapter"))
        await hand.press("escape")
        await hand.arrive("SettingsScreen")


async def test_what_is_longer_than_the_screen_is_scrolled_from_anywhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    (trained / "run.log").write_text("\n".join(f"line {number}." for number in range(200)))
    script = [started(output_dir=str(trained)), *(Warned("x", f"word {number}.") for number in range(100))]
    app = wizard(flags, runner=Scripted(*script))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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
            app.post_message(Told(Warned("x", f"word {number}."), 0.0))
        await hand.until(lambda: len(app.live.happenings) == 106)
        assert not hand.shows("word 104.")
        await hand.press("ctrl+end")
        await hand.until(lambda: hand.shows("word 104."))
        app.post_message(Told(Warned("x", "word 105."), 0.0))
        await hand.until(lambda: hand.shows("word 105."))
        await hand.press("l")
        await hand.until(lambda: hand.shows("line 199."))
        await hand.press("pageup")
        await hand.until(lambda: not hand.shows("line 199."))
        await hand.press("escape", "s")
        await hand.arrive("ResultScreen")


async def test_steps_and_memory_are_told_for_the_batch_that_was_asked(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard({**flags, "batch_size": "2", "grad_accum": "3"})
    async with app.run_test(size=(100, 40)) as pilot:
        hand = Hand(app, pilot)
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
    monkeypatch.setattr(review_screen, "expect", lambda plan, report: (asked.append(report), expect(plan, report))[1])
    app = wizard(flags)
    async with app.run_test(size=(100, 40)) as pilot:
        hand = Hand(app, pilot)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.until(lambda: hand.shows("[b]x[/b] ^[[31mred^[]0;t^G"))
        assert hand.shows("[/] ok")


async def test_the_command_line_of_the_review_means_the_same_run(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard({**flags, "seed": "7"})
    app.wizard.start = Start("fresh")
    planned = await asyncio.to_thread(app.wizard.make_plan)
    words = shlex.split(app.wizard.command_line())
    assert words[:2] == ["lora-tui", "--yes"]
    from engine.answers import gather
    from engine.config import RunConfig
    from engine.resume.plan import plan_run

    options = run_parser().parse_args(words[1:])
    named = {name: value for name, value in vars(options).items() if name in RunConfig.model_fields}
    again = gather(named, environ={})
    assert plan_run(again.resolved, again.found).config == planned.config


async def test_a_small_terminal_shows_a_sparkline_with_the_numbers(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), *(step(n, 4 / n) for n in range(1, 20))))
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.until(lambda: hand.screen.query_one("#chart").display and hand.shows("┤"))
        await pilot.resize_terminal(44, 16)
        await hand.until(lambda: hand.shows("loss 4.00 to 0.21 · lowest 0.21"))
        assert not hand.screen.query_one("#chart").display
        await pilot.resize_terminal(100, 30)
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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = await training(app, pilot)
        await hand.arrive("ResultScreen")
        await hand.press("y")
        await hand.until(lambda: app.clipboard)
        command = "lora-tui --yes --output 'out/my run' --resume auto"
        assert all(words in app.clipboard for words in ("disk full", "no room", "make room", "run.log", command))


async def test_a_key_pressed_once_is_one_step(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags, runner=Scripted(started(), OutputError("disk full")))
    entered, left = [], []
    app.go_to = lambda step, go_to=app.go_to: (entered.append(step), go_to(step))  # type: ignore[method-assign]
    app.exit = lambda *given, leave=app.exit, **named: (left.append(given), leave(*given, **named))  # type: ignore[method-assign]
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
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


async def test_the_detail_of_a_checkpoint_tells_its_files_and_whether_it_goes_on(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    (trained / "checkpoint-6" / "optimizer.pt").unlink()
    app = wizard(flags)
    async with app.run_test(size=(140, 50)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("It can be continued."))
        assert hand.shows("adapter_model.safetensors")
        await hand.press("down")
        await hand.until(lambda: hand.shows("It cannot be continued here."))


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
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.go_on("ModelScreen", "232 rows")
        await hand.go_on("OutputScreen", "context 512")
        await hand.until(lambda: hand.shows("out/elsewhere"))


async def test_one_enter_too_many_does_not_leave_before_the_result_was_read(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    train(**flags)
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.press("ctrl+n")
        await hand.to_review()
        await hand.press("enter")
        await hand.arrive("ResultScreen")
        await hand.press("enter")
        await pilot.pause()
        assert hand.at("ResultScreen") and app.return_code is None
        await hand.until(lambda: hand.screen.focused is hand.screen.query_one("#main"))
        assert hand.shows("longer: lora-tui --yes --output out/w --epochs 4")


async def test_after_one_is_put_away_the_cursor_is_on_its_neighbour(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        await hand.press("down")
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))
        await hand.press("d")
        await hand.until(lambda: hand.shows("Continue checkpoint-3"))
        await hand.press("d")
        await hand.until(lambda: not (trained / "checkpoint-3").exists() and hand.shows("Continue checkpoint-8"))
