"""The conversation after the result, with a real run's adapter."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.events import Paste
from textual.widgets import Input, Static

from engine.export.chat import Chat, Sampling, open_chat, question
from engine.export.samples import AskedRow
from engine.export.source import find_source
from tests.conftest import write_jsonl
from tests.tui.conftest import Hand, driven
from tui.app import LoraTui
from tui.chat import Asked, _converse, run_chat
from tui.plain import visible
from tui.screens.chat import ChatScreen

Make = Callable[..., LoraTui]


async def to_chat(hand: Hand) -> None:
    await hand.straight_to_review()
    await hand.run_to_end()
    await hand.press("t")
    await hand.arrive("ChatScreen")
    await hand.until(lambda: hand.shows("ready"))


async def test_both_sides_answer_what_was_asked(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app, (140, 40)) as hand:
        await to_chat(hand)
        await hand.press(*"question", "enter")
        await hand.until(lambda: hand.text().count("> question") == 2 and hand.shows("ready"), 60)
        shown = {side: hand.screen._shown[side].plain for side in ("adapter", "base")}  # type: ignore[attr-defined]
        await hand.press("escape")
        await hand.arrive("ResultScreen")
    with open_chat(find_source(Path("out/w"))) as chat:
        for side in ("adapter", "base"):
            answer = chat.answer(question("question"), side, Sampling())  # type: ignore[arg-type]
            assert "".join(visible(answer, keep_lines=True).split()) in "".join(shown[side].split())


async def test_a_conversation_begins_with_the_system_turn_that_all_rows_share(
    wizard: Make, flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {"role": "system", "content": "Be brief."}
    rows = [{"messages": [brief, *question(f"why {n}"), {"role": "assistant", "content": f"so {n}"}]} for n in range(12)]
    heard: list[list[str]] = []
    monkeypatch.setattr(Chat, "answer", lambda self, said, *_rest: heard.append([turn["content"] for turn in said]) or "so")
    app = wizard(flags | {"dataset": str(write_jsonl(tmp_path / "brief.jsonl", rows))})
    async with app.run_test(size=(140, 40)) as pilot:
        hand = Hand(app, pilot)
        await to_chat(hand)
        assert hand.shows("Be brief.")
        await hand.press(*"one", "enter", *"two", "enter")
        await hand.until(lambda: len(heard) == 4, 60)
    assert heard == [["Be brief.", "one"]] * 2 + [["Be brief.", "one", "so", "two"]] * 2


async def test_rows_of_the_dataset_are_asked_and_leaving_in_the_middle_is_at_once(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await to_chat(hand)
        await hand.press("ctrl+r")
        await hand.until(lambda: hand.shows("in the dataset"), 60)
        await hand.press("ctrl+l")
        assert not hand.shows("in the dataset")
        await hand.press(*"again", "enter", "escape", "escape")
        await hand.arrive("ResultScreen")
        await hand.until(lambda: not [one for one in app.workers if one.name == "chat" and one.is_running], 20)


async def test_escape_ends_an_answer_and_the_question_can_be_brought_back(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[str]] = []

    def endless(_chat: Chat, said: Any, side: str, _sampling: Any, tell: Callable[[str], None], *_more: Any) -> str:
        heard.append([turn["content"] for turn in said])
        while said[-1]["content"] == "long":
            tell("on and ")
            time.sleep(0.01)
        return "so"

    monkeypatch.setattr(Chat, "answer", endless)
    app = wizard(flags)
    async with driven(app) as hand:
        await app.push_screen(ChatScreen(trained))
        await hand.until(lambda: hand.shows("ready"))
        await hand.press(*"long", "enter", *"never", "enter")
        await hand.until(lambda: hand.shows("on and on") and hand.shows("Esc ends it"))
        await hand.press("escape")
        await hand.until(lambda: hand.shows("(ended, and forgotten)") and hand.shows("ready"))
        await hand.press(*"draft", "up", "up")
        question = hand.screen.query_one("#question", Input)
        assert question.value == "long"
        await hand.press("down", "down")
        assert question.value == "draft"
        await hand.press("enter")
        await hand.until(lambda: len(heard) == 3)
        await hand.until(lambda: hand.screen._answered == 3)  # type: ignore[attr-defined]
        await hand.press("up", "up", "up", "enter")
        await hand.until(lambda: len(heard) == 4)
        await hand.press("ctrl+l", *"other", "enter")
        await hand.until(lambda: len(heard) == 6 and hand.screen._answered == 5)  # type: ignore[attr-defined]
        await hand.press("escape")
        await hand.until(lambda: not isinstance(hand.screen, ChatScreen))
    assert heard == [["long"], ["draft"], ["draft"], ["draft", "so", "long"], ["other"], ["other"]]


async def test_an_answer_that_fails_ends_neither_the_wizard_nor_the_conversation(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, room = Chat.answer, []

    def short_of_memory(*given: Any, **named: Any) -> str:
        if not room:
            raise RuntimeError("CUDA out of memory")
        return answer(*given, **named)

    monkeypatch.setattr(Chat, "answer", short_of_memory)
    app = wizard(flags)
    async with driven(app) as hand:
        await to_chat(hand)
        await hand.press(*"first", "enter")
        await hand.until(lambda: hand.shows("RuntimeError: CUDA out of memory"))
        room.append(True)
        await hand.press(*"second", "enter")
        await hand.until(lambda: hand.text().count("> second") == 2 and hand.shows("ready"), 60)
        await hand.press("f1")
        await hand.until(lambda: hand.shows("where the answers differ"))
        await hand.press("escape", "escape")
        await hand.arrive("ResultScreen")


@pytest.mark.slow
async def test_how_answers_are_drawn_can_be_set_and_is_the_same_for_both(wizard: Make, flags: dict[str, Any]) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await to_chat(hand)
        await hand.press("ctrl+t", "home", "shift+end", *"warm", "enter")
        await hand.until(lambda: hand.shows("temperature: 'warm' is no number"))
        await hand.press("home", "shift+end", *"1.5", "enter", *"question", "enter")
        await hand.until(lambda: hand.shows("temperature 1.5, top-p 1, seed 42, on both sides"), 60)
        shown = hand.screen._shown["base"].plain  # type: ignore[attr-defined]
        await hand.press("ctrl+l", *"question", "enter")
        await hand.until(lambda: hand.screen._shown["base"].plain == shown, 60)  # type: ignore[attr-defined]


async def test_a_sampling_value_that_cannot_be_used_is_named_and_shown_where_it_was_hidden(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatScreen, "_converse", lambda self: None)
    app = wizard(flags)
    async with driven(app) as hand:
        await app.push_screen(ChatScreen(trained))
        for value, said in (("abc", "top-p: 'abc' is no number"), ("7", "top-p: these sampling settings cannot be used")):
            hand.screen.query_one("#top_p", Input).value = value
            hand.screen.query_one("#sampling").display = False
            hand.screen.query_one("#question").focus()
            await hand.press("q", "enter")
            await hand.until(lambda said=said: hand.shows(said))  # type: ignore[misc]
            field = hand.screen.query_one("#top_p", Input)
            assert field.has_focus and hand.screen.query_one("#sampling").display


async def test_after_the_last_row_of_the_dataset_the_first_is_asked_again(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def of_three(source: Any, number: int) -> tuple[int, AskedRow]:
        asked.append(number % 3 + 1)
        return asked[-1], AskedRow(question(f"row {asked[-1]}"), "")

    monkeypatch.setattr("tui.screens.chat.row_after", of_three)
    monkeypatch.setattr(Chat, "answer", lambda *given, **named: "so")
    app = wizard(flags)
    async with driven(app) as hand:
        await app.push_screen(ChatScreen(trained))
        await hand.press(*["ctrl+r"] * 5)
        await hand.until(lambda: asked == [1, 2, 3, 1, 2], 60)


async def test_where_there_is_nothing_to_talk_to_nothing_can_be_asked_and_why_stays(
    wizard: Make, flags: dict[str, Any], tmp_path: Path
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await app.push_screen(ChatScreen(tmp_path))
        await hand.until(lambda: hand.screen.query_one("#question").disabled)
        said = str(hand.screen.query_one("#chat-state", Static).content)
        await hand.press("ctrl+r", *"question", "enter")
        assert said and str(hand.screen.query_one("#chat-state", Static).content) == said
        await hand.press("escape")
        await hand.until(lambda: not isinstance(hand.screen, ChatScreen))


def test_without_the_wizard_ctrl_c_ends_an_answer_and_not_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[str]] = []

    def answer(_chat: Chat, said: Any, *_more: Any) -> str:
        heard.append([turn["content"] for turn in said])
        if said[-1]["content"] == "long":
            signal.raise_signal(signal.SIGINT)
        return "so"

    monkeypatch.setattr(Chat, "answer", answer)
    monkeypatch.setattr("tui.chat._lines", lambda: iter(["long", "short"]))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    source: Any = SimpleNamespace(adapter=SimpleNamespace(path=Path("final")))
    before = signal.signal(signal.SIGINT, lambda *_given: pytest.fail("the program's own: it leaves"))
    try:
        _converse(Chat(None, None), source, Asked(None, None, None, Sampling(), as_json=False))
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [["long"], ["short"], ["short"]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_model_is_loaded_leaves_nothing_behind(
    number: int, code: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []

    def loaded(_source: Any, copy: Path, _hardware: Any) -> None:
        copied.append(copy)
        signal.raise_signal(number)

    monkeypatch.setattr("engine.export.chat.load_adapted", loaded)
    before = signal.signal(number, lambda *_given: pytest.fail("the program's own: it leaves at once"))
    try:
        with pytest.raises(SystemExit) as ended:
            run_chat(str(trained), None, None, Asked("question", None, None, Sampling(), as_json=False))
    finally:
        signal.signal(number, before)
    assert ended.value.code == code
    assert [one for one in copied if one.parent.exists()] == [] and copied


async def test_all_lines_of_what_is_pasted_are_one_question(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def answer(_chat: Chat, said: Any, *_more: Any) -> str:
        heard.append(said[-1]["content"])
        return "so"

    monkeypatch.setattr(Chat, "answer", answer)
    app = wizard(flags)
    async with driven(app) as hand:
        await app.push_screen(ChatScreen(trained))
        await hand.until(lambda: hand.shows("ready"))
        assert hand.screen.focused is not None
        hand.screen.focused.post_message(Paste("one\r\ntwo\nthree\n"))
        await hand.until(lambda: hand.shows("one⏎two⏎three"))
        await hand.press("enter")
        await hand.until(lambda: len(heard) == 2)
        await hand.press("up", "enter")
        await hand.until(lambda: len(heard) == 4)
    assert heard == ["one\ntwo\nthree"] * 4
