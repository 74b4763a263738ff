"""Both languages are complete: what the code says stands in the catalogue, translated, with the same placeholders."""

from __future__ import annotations

import ast
import gettext
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.i18n import install
from engine.remembered import Remembered
from tests.conftest import chats, write_jsonl
from tests.tui.conftest import driven
from tui.app import LoraTui
from tui.dataset_text import problem_lines
from tui.event_text import stop_words
from tui.help import field_help

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "tui" / "locale" / "zh_CN" / "LC_MESSAGES" / "lora-tui.po"
KEYWORDS = {"_": None, "n_": (1, 2), "_field": (2,), "N_": None}


def said() -> set[str]:
    """Every message in the code (the singular of those with a plural)."""
    found: set[str] = set()
    for package in ("engine", "tui"):
        for _file, _line, message, _comments, _context in extract_from_dir(ROOT / package, keywords=KEYWORDS):
            found.add(message[0] if isinstance(message, tuple) else message)
    return found


def translated() -> list[Message]:
    with open(CATALOGUE, "rb") as file:
        return [message for message in read_po(file, locale="zh_CN") if message.id]


def first(text: object) -> str:
    return str(text[0]) if isinstance(text, tuple | list) else str(text)


def test_everything_that_is_said_is_translated() -> None:
    there = {first(message.id) for message in translated() if first(message.string) and not message.fuzzy}
    assert not said() - there


def test_no_word_hides_in_an_f_string_where_it_would_not_be_extracted() -> None:
    for path in (*(ROOT / "engine").rglob("*.py"), *(ROOT / "tui").rglob("*.py")):
        for text in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(text, ast.JoinedStr):
                called = [node.func for node in ast.walk(text) if isinstance(node, ast.Call)]
                assert not [one for one in called if isinstance(one, ast.Name) and one.id in KEYWORDS], (
                    f"{path}:{text.lineno}"
                )


class Marked(gettext.NullTranslations):
    """A language that shows what was translated."""

    def gettext(self, message: str) -> str:
        return f"«{message}»"


async def test_what_other_libraries_ask_and_what_was_raw_is_translated(tmp_path: Path) -> None:
    install(Marked())
    for reason in ("user", "watcher", "detach", "parent_gone", "loss_jumped"):
        assert stop_words(reason).startswith("«")
    assert stop_words("SIGHUP") == "SIGHUP"
    assert field_help("epochs").startswith("««")  # the words, and the stop that ends them
    write_jsonl(tmp_path / "twice.jsonl", chats(2) + chats(1))
    report = dataset_report(str(tmp_path / "twice.jsonl"), Reading(), None, "auto", 64)
    assert next(line for line, _style in problem_lines(report)).startswith("«info» ")
    app = LoraTui({"dataset": "none"}, remembered=Remembered())
    async with driven(app, (100, 30)) as hand:
        await hand.press("ctrl+p")
        await hand.until(lambda: hand.shows("«Search for a command»"))
        await hand.press("escape", "ctrl+o")
        await hand.until(lambda: hand.shows("«Open»") and hand.shows("«Cancel»"))


def test_nothing_is_translated_that_is_no_longer_said() -> None:
    assert not {first(message.id) for message in translated()} - said()


def test_every_translation_has_the_placeholders_of_its_source() -> None:
    def places(text: object) -> set[str]:
        return set(re.findall(r'\{[^{}"]*\}', str(text)))

    for message in translated():
        sources = places(message.id[1] if isinstance(message.id, tuple) else message.id)
        strings = message.string if isinstance(message.string, tuple | list) else [message.string]
        assert all(places(string) == sources for string in strings), message.id


def test_the_compiled_catalogue_is_the_written_one() -> None:
    with open(CATALOGUE.with_suffix(".mo"), "rb") as file:
        compiled = {first(message.id): first(message.string) for message in read_mo(file) if message.id}
    assert compiled == {first(message.id): first(message.string) for message in translated()}


def test_the_locale_chooses_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    from tui.i18n import choose_language

    for name in ("LORA_TUI_LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for value, language in (("zh_CN.UTF-8", "zh_CN"), ("zh_TW", "zh_CN"), ("de_DE.UTF-8", "en"), ("C", "en")):
        monkeypatch.setenv("LANG", value)
        assert choose_language() == language
    assert choose_language("zh_CN") == "zh_CN"
