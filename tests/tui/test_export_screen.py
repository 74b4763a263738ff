"""The export after the result, with a real run's adapter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.widgets import Button, Input, Select

from engine.errors import Cancelled
from tests.tui.conftest import Hand, driven
from tui.app import LoraTui
from tui.export import NameTaken, Told
from tui.screens import export as export_screen

Make = Callable[..., LoraTui]


async def to_export(hand: Hand) -> None:
    await hand.straight_to_review()
    await hand.run_to_end()
    await hand.press("e")
    await hand.arrive("ExportScreen")


async def test_what_is_chosen_is_exported_with_its_checks_and_a_refusal_can_be_mended(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await to_export(hand)
        hand.screen.query_one("#kind", Select).value = "q8_0"
        hand.screen.query_one("#name", Input).value = "Not A Name"
        await hand.until(lambda: hand.shows("--quantize q8_0") and hand.shows("--name 'Not A Name'"))
        assert hand.shows("MB are fetched first, once")
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("is no name for a model in Ollama"), 60)
        assert hand.shows("--name") and not hand.screen.query_one("#main", Button).disabled
        hand.screen.query_one("#to", Select).value = "merged"
        await hand.until(lambda: hand.shows("--to merged"))
        assert not hand.shows("Number format") and not hand.shows("MB are fetched first")
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("logits differ by"), 60)
        assert list(Path("out/w/export/merged").glob("*.safetensors"))
        await hand.press("escape")
        await hand.arrive("ResultScreen")


async def test_quitting_in_the_middle_of_an_export_asks_and_escape_goes_back(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def slow(*given: Any) -> Any:
        done.wait(60)
        raise MemoryError("no room for it")

    monkeypatch.setattr(export_screen, "carry_out", slow)
    app = wizard(flags)
    async with driven(app) as hand:
        await to_export(hand)
        await hand.press("f1")
        await hand.until(lambda: hand.shows("take a GGUF file"))
        await hand.press("escape", "ctrl+n")
        await hand.until(lambda: hand.shows("at work"))
        await hand.press("ctrl+q")
        await hand.arrive("QuitScreen")
        assert hand.shows("The export is at work.")
        await hand.press("enter", "escape")
        assert hand.at("ExportScreen") and app.return_code is None
        done.set()
        await hand.until(lambda: hand.shows("no room for it"))
        hand.screen.query_one("#to", Select).focus()
        await hand.press("enter", "escape")
        assert hand.at("ExportScreen")  # the list was open: that is what escape closed
        await hand.press("escape")
        await hand.arrive("ResultScreen")


async def test_escape_ends_the_download_and_the_command_of_the_export_can_be_copied(
    wizard: Make, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[bool] = []
    began = threading.Event()

    def fetching(_out: Path, _checkpoint: None, _model: None, _wanted: Any, _aside: Any, stopped: Callable[[], bool]) -> Any:
        if not began.is_set():
            began.set()
            while not stopped():
                threading.Event().wait(0.02)
            raise Cancelled("The export was cancelled.")
        here.append(True)
        return None, Told(fields={"command": "ollama create w -f out/w/Modelfile"}, lines=["exported"])

    monkeypatch.setattr(export_screen, "carry_out", fetching)
    monkeypatch.setattr(export_screen, "to_be_fetched", lambda: not here)
    monkeypatch.setattr(export_screen, "absence", lambda: "No Ollama answers here.")
    app = wizard(flags)
    async with driven(app, (110, 30)) as hand:
        await to_export(hand)
        await hand.until(lambda: hand.shows("No Ollama answers here."))
        assert hand.screen.query_one("#name", Input).placeholder == "w"
        await hand.press("y")
        assert app.clipboard == "lora-tui export out/w --to ollama"
        await hand.press("ctrl+n")
        await hand.until(lambda: began.is_set() and hand.shows("Esc ends the download"))
        await hand.press("escape")
        await hand.until(lambda: hand.shows("The export was cancelled."))
        assert hand.at("ExportScreen") and hand.shows("MB are fetched first")
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("exported"))
        assert not hand.shows("MB are fetched first")  # they are here now
        await hand.press("y")
        assert app.clipboard == "ollama create w -f out/w/Modelfile"
        hand.screen.query_one("#to", Select).value = "merged"
        await hand.until(lambda: not hand.shows("No Ollama answers here."))


async def test_a_name_that_ollama_has_can_be_taken_over_by_what_is_exported_now(
    wizard: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def registered(_out: Path, _checkpoint: None, _model: None, wanted: Any, *_more: Any) -> Any:
        if not wanted.replace:
            raise NameTaken("Ollama has a model w already", fix="Choose another name with --name, or --replace.")
        return None, Told(fields={}, lines=["exported"])

    monkeypatch.setattr(export_screen, "carry_out", registered)
    app = wizard()
    async with driven(app) as hand:
        app.push_screen(export_screen.ExportScreen(Path("out/w")))
        await hand.arrive("ExportScreen")
        assert not hand.shows("A model of that name")
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows('with "Name in Ollama", or "A model of that name"'))
        assert hand.screen.query_one("#taken", Select).has_focus
        await hand.press("enter", "down", "enter")
        await hand.until(lambda: hand.shows("--to ollama --replace"))
        hand.screen.query_one("#name", Input).value = "other"
        await hand.until(lambda: not hand.shows("--replace"))  # said of the name that was taken, not of this one
        hand.screen.query_one("#name", Input).value = ""
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("exported"))


async def test_a_name_that_is_still_being_typed_counts_before_the_key_that_exports(
    wizard: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def exported(_out: Path, _checkpoint: None, _model: None, wanted: Any, *_more: Any) -> Any:
        asked.append(wanted.name)
        return None, Told(fields={}, lines=["exported"])

    monkeypatch.setattr(export_screen, "carry_out", exported)
    app = wizard()
    async with driven(app) as hand:
        app.push_screen(export_screen.ExportScreen(Path("out/w")))
        await hand.arrive("ExportScreen")
        hand.screen.query_one("#name", Input).focus()
        await hand.pilot.pause()
        for key in (*(Key(one, one) for one in "mo"), Key("ctrl+n", None)):
            app.post_message(key)
        await hand.until(lambda: hand.shows("exported"))
    assert asked == ["mo"]


async def test_the_command_of_a_folder_that_begins_as_a_flag_does_is_of_that_folder(
    wizard: Make, flags: dict[str, Any]
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        app.push_screen(export_screen.ExportScreen(Path("-mine")))
        await hand.arrive("ExportScreen")
        await hand.until(lambda: hand.shows("lora-tui export ./-mine --to ollama"))
