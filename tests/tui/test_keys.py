"""Keys that a person has set otherwise: they work, they are shown, and a file that cannot be followed is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from tests.tui.conftest import driven
from tui.app import LoraTui, run_wizard
from tui.keys import BESIDE_FIELDS, DEFAULT, EVERYWHERE, TOGETHER, keys_file, own_keys
from tui.screens.chat import ChatScreen
from tui.screens.dataset import DatasetScreen
from tui.screens.export import ExportScreen
from tui.screens.model import ModelScreen
from tui.screens.output import OutputScreen
from tui.screens.result import ResultScreen
from tui.screens.review import ReviewScreen
from tui.screens.settings import SettingsScreen
from tui.screens.start import StartScreen
from tui.screens.training import TrainingScreen

Make = Callable[..., LoraTui]
SCREENS = (DatasetScreen, ModelScreen, OutputScreen, StartScreen, SettingsScreen, ReviewScreen, TrainingScreen, ResultScreen,
           ExportScreen, ChatScreen)  # fmt: skip


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a person's file of keys."""

    def write(text: str) -> Path:
        path = tmp_path / "keys.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("LORA_TUI_KEYS", str(path))
        return path

    return write


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.__name__)
def test_each_key_that_a_screen_shows_has_a_name_and_is_held_apart_from_the_others_there(screen: Any) -> None:
    shown = [one for one in screen._merge_bindings() if one[1].description and one[1].show]
    names = {binding.id for _key, binding in shown}
    assert names <= set(DEFAULT)
    assert any(names <= {*EVERYWHERE, *together} for together in TOGETHER)


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.__name__)
def test_a_key_that_comes_before_what_is_typed_may_be_no_letter(screen: Any) -> None:
    first = {binding.id for _key, binding in screen._merge_bindings() if binding.priority and binding.id}
    assert first <= set(BESIDE_FIELDS)


async def test_an_own_key_does_what_its_name_says_and_stands_at_the_foot(wizard: Make, chat_file: Path) -> None:
    app = wizard({"dataset": str(chat_file)}, keys={"next": "f2", "menu": "f3"})
    async with driven(app, (140, 40)) as hand:
        await hand.until(lambda: hand.shows("rows"))
        assert hand.shows("f2 Next") and hand.shows("f3 Menu")
        await hand.press("ctrl+n")
        assert hand.at("DatasetScreen")
        await hand.press("f3")
        await hand.arrive("Menu")
        await hand.press("escape", "f2")
        await hand.arrive("ModelScreen")


async def test_the_help_says_that_own_keys_are_listed(wizard: Make) -> None:
    app = wizard(keys={"help": "f4"})
    async with driven(app, (100, 60)) as hand:
        await hand.press("f4")
        await hand.until(lambda: hand.shows("yours are these"))


def test_one_key_or_several_are_read_from_the_file(keys: Callable[[str], Path]) -> None:
    keys('stop = "ctrl+s"\nnext = ["f2", "ctrl+n"]\ntalk = "?"\n')
    assert own_keys() == {"stop": "ctrl+s", "next": "f2,ctrl+n", "talk": "?"}


def test_where_there_is_no_file_the_keys_are_those_it_comes_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_TUI_KEYS", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert own_keys() == {} and keys_file().name == "keys.toml"


def test_keys_may_change_places(keys: Callable[[str], Path]) -> None:
    keys('continue = "f"\nfresh = "c"\n')
    assert own_keys() == {"continue": "f", "fresh": "c"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stop = ", "Invalid value"),
        ('stopp = "s"', "stopp is the name of no key"),
        ("stop = 3", "stop: a key such as"),
        ("stop = []", "stop: a key such as"),
        ('stop = "ctrl+nowhere"', "is no key"),
        ('stop = "ctrl+"', "is no key"),
        ('stop = ""', "is no key"),
        ('stop = "s,t"', "is no key"),
        ('stop = "up"', "moves about"),
        ('stop = "ctrl+m"', "moves about"),
        ('stop = "<any>"', "is no key"),
        ('next = "n"', "typed into fields"),
        ('menu = ["f2", "f3"]', "one key"),
        ('stop = "l"', "l cannot be both stop and log"),
        ('stop = "f1"', "f1 cannot be both help and stop"),
        ('[stop]\nkey = "s"', "stop: a key such as"),
        ('\x00', "keys.toml"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_followed_is_refused_with_its_reason(text: str, why: str, keys: Callable[[str], Path]) -> None:
    path = keys(text)
    with pytest.raises(ConfigError) as refused:
        own_keys()
    assert why in str(refused.value) and str(path) in str(refused.value)


def test_keys_that_cannot_be_used_are_told_before_the_wizard_opens(keys: Callable[[str], Path]) -> None:
    keys('stopp = "s"')
    with pytest.raises(ConfigError, match="stopp"):
        run_wizard({}, False)


def test_a_file_that_is_named_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_TUI_KEYS", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        own_keys()
