"""Terminals that show only ASCII, that are narrow, or that are listened to."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text
from textual.color import Color
from textual.widgets import Static

from engine.course.advice import advise
from engine.events import CheckpointSaved, LossJumped, ResumeChecked, RowsTokenised, RunFinished, RunStopped
from tests.tui.conftest import driven
from tests.tui.scripted import Scripted, started, step
from tests.tui.test_snapshots import RECEIPT
from tui import i18n
from tui.app import LoraTui
from tui.ascii import ascii_drawn
from tui.breaking import console, words
from tui.runs import run_runs
from tui.show import Show
from tui.widgets.foot import Foot

Make = Callable[..., LoraTui]


def test_a_terminal_of_no_columns_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some shells without a terminal have COLUMNS=0."""
    monkeypatch.setenv("COLUMNS", "0")
    for soft_wrap in (False, True):
        shown = console(stream := io.StringIO(), soft_wrap)
        shown.print(Text("error: missing: --dataset"))
        assert stream.getvalue() == "error: missing: --dataset\n"


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
async def test_only_ascii_is_drawn_on_every_screen(
    wizard: Make, flags: dict[str, Any], trained: Path, size: tuple[int, int]
) -> None:
    finished = RunFinished(100, 2.0, 0.21, None, 60.0, "out/w/final", asdict(advise([0.21] * 10)))
    saved = CheckpointSaved("checkpoint-30", 30, 1.2, 1.9, None, 1_500_000, 0.1)
    jump = LossJumped(20, "divergence", 0.5, 4.0, 8.0, False)
    script = [started(checkpoint="checkpoint-8", step=8), RECEIPT, *(step(n, 4 / n) for n in range(9, 20)), saved, jump]
    app = wizard(flags, runner=Scripted(*script, then=finished), ascii_only=True)
    async with driven(app, size) as hand:

        async def drawn(*keys: str, seen: str) -> None:
            await hand.press(*keys)
            await hand.until(lambda: hand.shows(seen))
            assert hand.text().isascii(), [one for one in hand.text() if not one.isascii()]

        await drawn(seen="26 rows")
        await drawn("ctrl+p", seen="Search for a command")
        await drawn("escape", "f1", seen="Keys")
        await hand.press("escape")
        for seen in (
            "26 rows",
            "context 256",
            "are free there",
            "checkpoint-8 is the furthest",
            "learning rate",
            "without the wiz",
        ):
            await drawn(seen=seen)
            await hand.press("enter" if "furthest" in seen else "ctrl+n")
        await hand.arrive("TrainingScreen")
        await drawn(seen="WARNING")
        await drawn("ctrl+q", seen="Keep training")
        await drawn("escape", "l", seen="Close")
        await hand.press("escape", "s")
        await drawn(seen="Leave")
        await drawn("e", seen="Number format")
        await drawn("escape", "t", seen="Ask something")
        await hand.press("escape")
        await hand.arrive("ResultScreen")
        await hand.press("ctrl+q")
    assert app._exit_renderables == [] and not app.is_running


def test_words_of_another_script_stay_words_and_stand_ins_are_as_wide() -> None:
    drawn = ascii_drawn("训练：é ╭·╮ 🔎 ⣿")
    assert drawn == "训练：é +-+    ?"
    assert cell_len(drawn) == cell_len("训练：é ╭·╮ 🔎 ⣿")


@pytest.mark.parametrize("language", ["en", "zh_CN"])
async def test_a_narrow_terminal_shows_where_one_is(
    wizard: Make, flags: dict[str, Any], trained: Path, language: str
) -> None:
    i18n.install(language)
    app = wizard(flags)
    async with driven(app, (40, 24)) as hand:
        for number in range(7):
            app.go_to(number)
            await hand.until(lambda number=number: getattr(hand.screen, "STEP", -1) == number)
            rail = hand.text().splitlines()[0]
            assert f"▸{number + 1} {i18n.i18n._(RAIL[number])}" in rail
        await hand.pilot.resize_terminal(100, 24)
        await hand.until(lambda: i18n.i18n._("Dataset") in hand.text().splitlines()[0])


RAIL = ("Dataset", "Model", "Output", "Start", "Settings", "Training", "Result")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_listened_to_are_whole_lines_that_stay() -> None:
    stream = Terminal()
    detail = "what was asked " * 10
    items = ({"item": "schedule", "expected": "14", "found": "100", "verdict": "changed", "detail": detail},)
    with Show(stream, lines_only=True) as show:
        for event in (RowsTokenised(5, 10, 1.0), started(total_steps=20), ResumeChecked("checkpoint-8", items),
                      *(step(number, 1.0) for number in range(1, 21))):  # fmt: skip
            show.event(event)
    said = stream.getvalue()
    assert "\r" not in said and "\x1b[2K" not in said and "\x1b[1A" not in said and "\x1b[?25l" not in said
    assert any("schedule: 14" in line and line.count("what was asked") == 10 for line in said.splitlines())
    assert "step 20/20" in said


def test_the_end_of_a_headless_run_says_how_its_result_comes_into_ollama() -> None:
    stream = io.StringIO()
    Show(stream).event(RunFinished(100, 2.0, 0.21, None, 60.0, "out/my run/final", asdict(advise([0.21] * 10))))
    assert "into Ollama: lora-tui export 'out/my run' --to ollama" in stream.getvalue()


@pytest.mark.parametrize(("step", "words"), [(0, "nothing was trained yet"), (7, "there is no checkpoint to go on from")])
def test_a_run_that_left_no_checkpoint_says_whether_it_was_trained(step: int, words: str) -> None:
    stream = io.StringIO()
    Show(stream).event(RunStopped(step, step / 10, "loss_jumped", None))
    assert words in stream.getvalue()


def test_a_run_has_its_whole_name_in_a_narrow_terminal(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        run_runs(trained.parent, as_json=False)
        said = capsys.readouterr().out
        assert "out/w" in said.split() and "8/14" in said
        assert all(len(line) <= int(columns) for line in said.splitlines())


@pytest.mark.parametrize("theme", ["textual-light", "solarized-light", "catppuccin-latte", "atom-one-light"])
async def test_where_one_is_can_be_read_on_a_light_ground(wizard: Make, theme: str) -> None:
    app = wizard()
    app.theme = theme
    async with app.run_test(size=(80, 24)):
        step = app.screen.query_one("RailStep.current")
        (_base, ground), (_below, colour) = step.background_colors, step.colors[2:]
        light, dark = sorted((_luminance(ground), _luminance(colour)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def _luminance(colour: Color) -> float:
    """WCAG 2.2's relative luminance."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def test_a_disabled_button_keeps_its_label_in_the_terminals_own_colours(wizard: Make) -> None:
    app = wizard()
    app.theme = "ansi-light"
    async with driven(app) as hand:
        app.screen.query_one("#main").disabled = True
        await hand.pilot.pause()
        assert hand.shows(" Next ")
        assert app.screen.query_one("#main").size.height == 1


@pytest.mark.parametrize("columns", range(36, 66, 3))
async def test_no_key_is_cut_at_the_foot_of_a_narrow_terminal(wizard: Make, columns: int) -> None:
    app = wizard()
    async with driven(app, (columns, 12)) as hand:
        await hand.until(lambda: hand.shows("^p Menu"))
        left, menu, _right = hand.text().splitlines()[-1].partition("▏^p Menu")
        assert menu and "^n Next" in left and left.rstrip().endswith("^q Quit")
        assert set(left.split()) <= {"^n", "Next", "f1", "Help", "^o", "Browse", "^q", "Quit"}
        assert len(left.split()) % 2 == 0
        await hand.pilot.resize_terminal(100, 12)
        await hand.until(lambda: hand.shows("^q Quit"))


async def test_the_keys_at_the_foot_are_made_anew_only_where_they_are_others(wizard: Make) -> None:
    async with driven(wizard()) as hand:
        await hand.until(lambda: hand.shows("^q Quit"))
        made = list(hand.screen.query("FooterKey"))
        hand.screen.refresh_bindings()
        await hand.pilot.pause()
        assert list(hand.screen.query("FooterKey")) == made
        await hand.press("f1")
        await hand.arrive("HelpScreen")
        await hand.press("escape")
        await hand.arrive("DatasetScreen")
        assert list(hand.screen.query("FooterKey")) == made


async def test_keys_that_are_to_be_made_anew_when_their_screen_has_gone_are_not(wizard: Make) -> None:
    async with driven(wizard()) as hand:
        await hand.until(lambda: hand.shows("^q Quit"))
        foot = hand.screen.query_one(Foot)
        await foot.remove()
        await foot.recompose()
        assert not foot.children


SENTENCE = "一个文件（.jsonl、.csv）、save_to_disk 写出的文件夹，或 Hub 上的 id；放得下：25.3 GB 中有 23.8 GB 可用（cpu）。"


@pytest.mark.parametrize("width", range(16, 60, 3))
def test_a_chinese_line_is_filled_and_no_mark_begins_the_next_one(width: int) -> None:
    written = io.StringIO()
    shown = console(written)
    shown.width = width
    shown.print(Text(SENTENCE))
    lines = written.getvalue().splitlines()
    assert "".join(lines).replace(" ", "") == SENTENCE.replace(" ", "")
    assert all(width - cell_len(line) < len("save_to_disk ") + 1 for line in lines[:-1])
    assert not [line for line in lines if line[0] in "，、；：）。"] and not [line for line in lines if line[-1] in "（"]


@pytest.mark.parametrize(
    "text", [SENTENCE, "plain words, as ever", "  /数据/聊天.jsonl\t", "", "한국어 문장은 띄어쓰기가 있다"]
)
def test_what_is_taken_apart_for_lines_is_the_whole_text(text: str) -> None:
    assert "".join(part for _begin, _end, part in words(text)) == text


def test_a_path_and_words_between_spaces_are_not_broken() -> None:
    text = "/数据/聊天.jsonl plain 한국어 문장"
    assert [part for _begin, _end, part in words(text)] == ["/数据/聊天.jsonl ", "plain ", "한국어 ", "문장"]


async def test_the_wizard_breaks_chinese_lines_between_characters(wizard: Make) -> None:
    async with driven(wizard()) as hand:
        hand.screen.query_one("#summary", Static).update(" " + "字" * 30 + " " + "字" * 30)
        await hand.until(lambda: hand.shows("字" * 30 + " " + "字"))
