"""Fields of a form, each alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.widgets import Input, Select, Static

import tui
from engine.config import RunConfig
from tui import i18n
from tui.fields import LABELS, in_fields, label
from tui.screens.review import _settings_text
from tui.widgets.path_input import PathInput
from tui.widgets.setting import Setting
from tui.wizard import READING, SETTINGS

LONG = "/".join(f"folder{number}" for number in range(20)) + "/rows.jsonl"


class Form(App[None]):
    CSS_PATH = Path(tui.__file__).with_name("lora.tcss")

    def compose(self) -> ComposeResult:
        yield Input(id="first")
        yield PathInput("file", "", "")
        yield Setting("activation_checkpointing", False)
        yield Setting("load_in_4bit", False)

    def on_mount(self) -> None:
        self.query_one(PathInput).value = LONG


async def test_of_a_path_longer_than_its_field_the_name_at_its_end_is_seen() -> None:
    app = Form()
    async with app.run_test(size=(60, 24)) as pilot:
        field = app.query_one(PathInput).query_one(Input)
        for width in (60, 50, 90):
            await pilot.resize_terminal(width, 24)
            await pilot.pause()
            await pilot.pause()
            assert not field.has_focus and field.scroll_x > 0
            assert LONG[int(field.scroll_x) :].endswith("rows.jsonl")
            assert len(LONG) - field.scroll_x <= field.content_size.width


async def test_the_longest_name_of_a_setting_does_not_touch_its_value() -> None:
    app = Form()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        label = app.query_one(Setting).query(Static).first()
        assert label.size.width >= len("activation checkpointing") and label.region.width > len("activation checkpointing")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Leave it out with --skip-rows 8,21.", 'Leave it out with "skip rows" 8,21.'),
        ("--columns names a column; see --grad-accum, --columns.", '"columns" names a column; see "grad accum", "columns".'),
        ("Make room, or choose another --output.", 'Make room, or choose another "Output".'),
        ("See lora-tui --help for what each setting takes.", "See F1 for what each setting takes."),
        ("Start fresh: --resume never", "Start fresh: --resume never"),
        ("Not --skip-rows-at-all", "Not --skip-rows-at-all"),
        ("lora-tui --yes --model M · with --model", 'lora-tui --yes --model M · with "Model"'),
    ],
)
def test_a_flag_is_told_as_its_field_but_for_commands_to_be_copied(words: str, told: str) -> None:
    assert in_fields(words) == told


def test_in_chinese_no_space_stands_before_the_quotes_that_a_flag_becomes() -> None:
    i18n.install("zh_CN")
    assert in_fields("\u66f4\u5927\u7684 --epochs \u6216 --epochs, b") == (
        "\u66f4\u5927\u7684\u201c\u8bad\u7ec3\u8f6e\u6570\u201d\u6216\u201c\u8bad\u7ec3\u8f6e\u6570\u201d, b"
    )


async def test_values_of_settings_stand_in_one_column_however_long_their_names() -> None:
    app = Form()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert len({one.query_one(Select).region.x for one in app.query(Setting)}) == 1


def test_every_field_of_the_wizard_has_a_name_that_can_be_translated() -> None:
    assert set(LABELS) == {"dataset", "model", "output", "chat_template", *READING, *SETTINGS}
    i18n.install("zh_CN")
    assert label("learning_rate") == "学习率" and in_fields("--learning-rate") == "“学习率”"


@pytest.mark.parametrize(("language", "first"), [("en", "  Dataset"), ("zh_CN", "  数据集")])
def test_the_review_calls_the_settings_as_their_fields_and_their_values_stand_below_each_other(
    language: str, first: str
) -> None:
    i18n.install(language)
    lines = _settings_text(RunConfig(dataset="data.jsonl"), {}).plain.splitlines()[1:]
    assert lines[0].startswith(first)
    (epochs,) = [line for line in lines if line.startswith(f"  {label('epochs')} ")]
    assert cell_len(lines[0][: lines[0].index("data.jsonl")]) == cell_len(epochs[: epochs.index("3")]) == 27


def test_the_review_writes_a_switch_as_its_field_does() -> None:
    (line,) = [line for line in _settings_text(RunConfig(), {}).plain.splitlines() if label("load_in_4bit") in line]
    assert line.split()[-1] == Setting.text_of(False) == "false"
