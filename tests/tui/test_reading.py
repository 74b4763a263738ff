"""How a dataset is read, answered on the first step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.widgets import Collapsible, Input

from engine.data.read import Reading
from engine.errors import LoraTuiError
from engine.remembered import Remembered
from tests.conftest import chats, write_jsonl
from tests.tui.conftest import driven
from tui import i18n
from tui.app import LoraTui
from tui.lookups import report_of
from tui.screens import dataset as dataset_screen
from tui.widgets.path_input import PathInput
from tui.widgets.setting import Setting

Make = Callable[..., LoraTui]


def odd(path: Path) -> Path:
    path.write_text("no,ask,say\n" + "".join(f"{row},what is {row}?,it is {row}\n" for row in range(9)))
    return path


async def test_columns_of_other_names_are_proposed_and_taken_with_enter(wizard: Make) -> None:
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("instruction=ask,output=say"))
        await hand.press("enter")
        await hand.until(lambda: hand.shows("9 rows · alpaca"))
        assert app.wizard.answers["columns"] == "instruction=ask,output=say"
        assert "--columns" in app.wizard.command_line()


async def test_a_guess_is_said_where_it_is_seen_and_not_hidden_by_the_formats(wizard: Make) -> None:
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("a guess: Enter takes it") and hand.shows("instruction=ask,output=say"))
        assert hand.shows("Found columns: no, ask, say") and not hand.shows('"conversations"')


async def test_without_a_guess_the_formats_are_told(wizard: Make) -> None:
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("a guess: Enter takes it"))
        (columns,) = [one for one in hand.screen.query(Setting) if one.setting == "columns"]
        columns.raw = ""
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows('"conversations"') and not hand.shows("a guess"))


async def test_another_dataset_begins_without_the_columns_of_the_last(wizard: Make) -> None:
    odd(Path("odd.csv"))
    write_jsonl(Path("plain.jsonl"), chats(5))
    app = wizard({"dataset": "odd.csv", "columns": "instruction=ask,output=say"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("9 rows · alpaca"))
        hand.screen.query_one("#dataset Input", Input).value = "plain.jsonl"
        await hand.until(lambda: hand.shows("5 rows · messages"))
        assert "columns" not in app.wizard.answers


async def test_the_columns_of_last_time_come_back_with_its_dataset(wizard: Make) -> None:
    odd(Path("odd.csv"))
    last = {"dataset": "odd.csv", "columns": "instruction=ask,output=say"}
    app = wizard(remembered=Remembered(answers=last))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("9 rows · alpaca"))
        assert not hand.screen.query_one(Collapsible).collapsed


async def test_a_value_that_cannot_be_used_is_told_at_its_field(wizard: Make) -> None:
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("instruction=ask,output=say"))
        (columns,) = [one for one in hand.screen.query(Setting) if one.setting == "columns"]
        columns.raw = "nonsense"
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("names are messages"))
        assert hand.at("DatasetScreen")


@pytest.mark.parametrize("pasted", ["'{}'", '"{}"', "file://{}", " {} "])
async def test_a_path_as_terminals_paste_it_is_found(pasted: str, wizard: Make, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "my data.jsonl", chats(5))
    app = wizard()
    async with driven(app) as hand:
        hand.screen.query_one("#dataset Input", Input).value = pasted.format(
            str(path).replace(" ", "%20" if "file" in pasted else " ")
        )
        await hand.until(lambda: hand.shows("5 rows · messages"))
        hand.screen.query_one("#dataset Input", Input).value = str(path).replace(" ", "\\ ")
        await hand.until(lambda: hand.shows("5 rows · messages"))


async def test_a_guess_is_seen_before_one_goes_on_with_it(wizard: Make) -> None:
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("instruction=ask,output=say"))
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("9 rows · alpaca"))
        assert hand.at("DatasetScreen")
        await hand.press("ctrl+n")
        await hand.arrive("ModelScreen")


async def test_a_machine_that_is_slow_to_make_the_fields_is_waited_for(
    wizard: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = Setting._on_compose

    async def late(setting: Setting, *event: Any) -> None:
        await asyncio.sleep(0.3)
        await compose(setting, *event)

    monkeypatch.setattr(Setting, "_on_compose", late)
    odd(Path("odd.csv"))
    app = wizard({"dataset": "odd.csv"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("instruction=ask,output=say") and isinstance(hand.screen.focused, Input))
        await hand.press("enter")
        await hand.until(lambda: hand.shows("9 rows · alpaca"))


@pytest.mark.parametrize("step", ["DatasetScreen", "SettingsScreen"])
async def test_a_key_that_comes_while_the_fields_are_made_finds_their_values(
    step: str, wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = Setting._on_compose
    pressed: list[str] = []

    async def late(setting: Setting, *event: Any) -> None:
        if type(app.screen).__name__ == step and not pressed:
            pressed.append(step)
            app.post_message(Key("ctrl+n", "\x0e"))
        await asyncio.sleep(0.3)
        await compose(setting, *event)

    monkeypatch.setattr(Setting, "_on_compose", late)
    app = wizard(flags)
    async with driven(app) as hand:
        if step == "DatasetScreen":
            await hand.arrive("ModelScreen")
        else:
            app.go_to(4)
            await hand.arrive("ReviewScreen")
        assert pressed == [step]


async def test_rows_left_out_of_one_dataset_are_read_of_another_that_is_named_before_next(wizard: Make) -> None:
    write_jsonl(Path("one.jsonl"), chats(5))
    write_jsonl(Path("other.jsonl"), chats(7))
    app = wizard()
    async with driven(app) as hand:
        field = hand.screen.query_one("#dataset Input", Input)
        field.value = "one.jsonl"
        await hand.until(lambda: hand.shows("5 rows"))
        (skip,) = [one for one in hand.screen.query(Setting) if one.setting == "skip_rows"]
        skip.raw = "2"
        skip.focus_field()
        await hand.press("enter")
        await hand.until(lambda: hand.shows("4 rows"))
        field.value = "other.jsonl"
        await hand.until(lambda: hand.shows("7 rows"))


async def test_the_columns_of_last_time_do_not_stand_in_the_way_of_another_dataset(wizard: Make) -> None:
    odd(Path("odd.csv"))
    write_jsonl(Path("plain.jsonl"), chats(5))
    last = {"dataset": "odd.csv", "columns": "instruction=ask,output=say", "skip_rows": "2"}
    app = wizard(remembered=Remembered(answers=last))
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("8 rows · alpaca"))
        hand.screen.query_one("#dataset Input", Input).value = "plain.jsonl"
        await hand.until(lambda: hand.shows("5 rows · messages"))


async def test_columns_given_without_a_dataset_are_those_of_the_one_that_is_taken(wizard: Make) -> None:
    odd(Path("odd.csv"))
    Path("folder").mkdir()
    app = wizard({"columns": "instruction=ask,output=say"})
    async with driven(app) as hand:
        hand.screen.query_one("#dataset Input", Input).value = "folder"
        await hand.until(lambda: hand.shows("no data file in it"))
        hand.screen.query_one("#dataset Input", Input).value = "odd.csv"
        await hand.until(lambda: hand.shows("9 rows · alpaca"))


async def test_what_to_do_about_a_row_names_the_field_and_all_that_is_to_stand_in_it(wizard: Make) -> None:
    with write_jsonl(Path("bad.jsonl"), chats(9)).open("a") as file:
        file.write('{"messages"}\n')
    app = wizard({"dataset": "bad.jsonl", "skip_rows": "8"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows('leave it out with "skip rows" 8,10.'))
        assert not hand.shows("--skip-rows")


async def test_where_rows_are_to_be_left_out_the_field_for_it_is_to_be_seen(wizard: Make) -> None:
    write_jsonl(Path("bad.jsonl"), [*chats(5), {"messages": [{"role": "user", "content": "and?"}]}])
    app = wizard({"dataset": "bad.jsonl"})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("leave it out with") or hand.screen.query_one("#closed").display)
        await hand.until(lambda: not hand.screen.query_one(Collapsible).collapsed)
        (field,) = [one for one in hand.screen.query(Setting) if one.setting == "skip_rows"]
        field.raw = "6"
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("5 rows · messages"))


async def test_what_another_dataset_is_counted_to_is_not_told_of_this_one(
    wizard: Make, flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are counted in a thread of their own, which goes on."""
    tells: list[Callable[[int, int, float], None]] = []

    def counts(dataset: str, model: str, answers: Any, tell: Any) -> Any:
        tells.append(tell)
        raise LoraTuiError("not now")

    monkeypatch.setattr(dataset_screen, "report_with_model", counts)
    other = write_jsonl(tmp_path / "other.jsonl", chats(5))
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows") and len(tells) == 1)
        hand.screen.query_one("#dataset", PathInput).value = str(other)
        hand.screen._look(str(other))  # type: ignore[attr-defined]
        await hand.until(lambda: hand.shows("5 rows") and len(tells) == 2)
        tells[0](1000, 2000, 1.0)
        await hand.pilot.pause()
        assert hand.shows("5 rows") and not hand.shows("50%")


async def test_what_was_read_otherwise_is_not_taken_for_what_is_asked_now(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()

    def read(dataset: str, reading: Reading) -> Any:
        if reading.skip_rows is None:
            slow.wait(20)
        return report_of(dataset, reading)

    monkeypatch.setattr(dataset_screen, "report_of", read)
    app = wizard({"dataset": flags["dataset"]})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("Reading"))
        app.wizard.answer("skip_rows", "1-20")
        hand.screen._look(str(flags["dataset"]))  # type: ignore[attr-defined]
        await hand.until(lambda: hand.shows("6 rows"))
        slow.set()
        await hand.until(lambda: not [one for one in app.workers if one.is_running])
        assert hand.shows("6 rows") and not hand.shows("26 rows")


async def test_what_is_remembered_and_no_run_takes_any_more_is_passed_over(wizard: Make, flags: dict[str, Any]) -> None:
    """Another version may have written it."""
    last = {"dataset": flags["dataset"], "format": "spoken", "scheduler": "polynomial"}
    app = wizard({"dataset": flags["dataset"], "model": flags["model"]}, remembered=Remembered(last))
    app.wizard.read_for = "another"
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        assert app.wizard.base().scheduler == "cosine"


async def test_what_to_do_is_seen_on_a_small_terminal_too(wizard: Make) -> None:
    other = [{"messages": [{"role": role, "content": "and?"}]} for role in ("user", "human", "bot", "ai", "me")]
    write_jsonl(Path("bad.jsonl"), [*chats(5), *other])
    app = wizard({"dataset": "bad.jsonl"})
    async with driven(app, (60, 18)) as hand:
        await hand.until(lambda: hand.shows("5 of 10 rows cannot be used"))
        await hand.until(lambda: hand.shows("6,7,8,9,10."))
        await hand.pilot.resize_terminal(140, 40)
        await hand.until(lambda: hand.shows("A row of this format"))


def calling(path: Path) -> str:
    """Rows that only a model that knows tools can learn from."""
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "lamp", "arguments": {}}}],
    }
    rows = [{"messages": [{"role": "user", "content": f"when {row}?"}, call]} for row in range(3)]
    return str(write_jsonl(path, rows))


async def test_rows_that_the_model_of_last_time_cannot_learn_do_not_close_the_way_to_another_model(
    wizard: Make, tiny_model: Path
) -> None:
    app = wizard({"dataset": calling(Path("calls.jsonl")), "model": str(tiny_model)})
    async with driven(app, (100, 40)) as hand:
        await hand.until(lambda: hand.shows("does not write the call of lamp") and hand.shows("Another model"))
        await hand.press("ctrl+n")
        await hand.arrive("ModelScreen")
        await hand.until(lambda: hand.screen.query_one("#closed").display)
        assert hand.shows("Take a model that knows tools")
        await hand.press("ctrl+n")
        assert hand.at("ModelScreen")


async def test_where_another_setting_helps_no_other_model_is_asked_for(wizard: Make, tiny_model: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"why {row}?"}, {"role": "assistant", "content": ""}]} for row in range(3)
    ]
    write_jsonl(Path("silent.jsonl"), rows)
    app = wizard({"dataset": "silent.jsonl", "model": str(tiny_model), "output": "out/silent"})
    async with driven(app, (100, 40)) as hand:
        await hand.until(lambda: hand.shows("no row has a token to learn from"))
        assert not hand.shows("Another model")
        await hand.press("ctrl+n")
        await hand.arrive("ModelScreen")
        await hand.until(lambda: hand.shows("no row has a token to learn from"))
        await hand.press("ctrl+n")
        await hand.arrive("OutputScreen")


async def test_what_the_start_would_find_of_the_rows_closes_the_review(wizard: Make, tiny_model: Path) -> None:
    app = wizard({"dataset": calling(Path("calls.jsonl")), "model": str(tiny_model), "output": "out/calls"})
    async with driven(app, (100, 40)) as hand:
        await hand.straight_to_review()
        await hand.until(lambda: hand.screen.query_one("#closed").display)
        assert hand.shows("Take a model that knows tools") and hand.screen.query_one("#main").disabled


@pytest.mark.parametrize(("dataset", "waits"), [("some/dataset", True), ("./rows.jsonl", False)])
def test_a_dataset_of_the_hub_is_read_once_no_other_thread_imports_transformers(
    dataset: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("engine.hardware.load_libraries", lambda: done.append("imported"))
    monkeypatch.setattr("engine.data.report.dataset_report", lambda *_: done.append("read"))
    report_of(dataset, Reading())
    assert done == ["imported"] * waits + ["read"]


async def test_the_key_that_closes_an_open_list_is_told_in_the_language_of_the_rest(
    wizard: Make, flags: dict[str, Any]
) -> None:
    i18n.install("zh_CN")
    app = wizard({"dataset": flags["dataset"]})
    async with driven(app) as hand:
        await hand.until(lambda: hand.screen.query(Setting))
        hand.screen.query_one(Collapsible).collapsed = False
        hand.screen.query(Setting).first().focus_field()
        await hand.pilot.pause()
        await hand.press("enter")
        await hand.until(lambda: hand.shows("esc 关闭"))
