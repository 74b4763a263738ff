"""The field for a chat template: a base model has none, and another one is other tokens."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from tests.tui.conftest import driven
from tui.app import LoraTui
from tui.lookups import report_with_model
from tui.screens import model as model_screen
from tui.widgets.setting import Setting

Make = Callable[..., LoraTui]


async def test_a_model_without_a_template_is_taken_with_one_that_is_named(
    wizard: Make, flags: dict[str, Any], tmp_path: Path
) -> None:
    base = shutil.copytree(flags["model"], tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    app = wizard({"dataset": flags["dataset"], "model": str(base)})
    async with driven(app) as hand:
        await hand.until(lambda: hand.shows("26 rows"))
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows('"chat template" plain') and hand.screen.query_one("#closed").display)
        setting = hand.screen.query_one(Setting)
        await hand.until(lambda: hand.screen.focused is setting.query_one(Input))
        await hand.press("ctrl+u", *"gone", "ctrl+n")
        await hand.until(lambda: hand.shows("There is no such file.") and hand.shows("Name a file with a Jinja template"))
        assert hand.screen.query_one("#closed").display and hand.screen.focused is setting.query_one(Input)
        await hand.press("ctrl+u", *"plain", "enter")
        await hand.until(lambda: app.wizard.counted_for == str(base) and not hand.screen.query_one("#closed").display)
        hand.screen.query_one("#model Input", Input).value = str(flags["model"])
        await hand.until(lambda: hand.shows("has a chat template"))
        assert not setting.display and "chat_template" not in app.wizard.answers


async def test_what_was_counted_with_another_template_does_not_count(
    wizard: Make, flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are counted in a thread of their own, which goes on."""
    goes_on, late = threading.Event(), threading.Event()

    def counts(dataset: str, model: str, answers: Any, tell: Any) -> Any:
        named = any("chat_template" in one.values for one in answers)
        if not named:
            goes_on.wait(20)
            late.set()
        return report_with_model(dataset, model, answers, tell)

    monkeypatch.setattr(model_screen, "report_with_model", counts)
    base = shutil.copytree(flags["model"], tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    app = wizard({"dataset": flags["dataset"]})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        hand.screen.query_one("#model Input", Input).value = str(base)
        await hand.until(lambda: hand.screen.query_one(Setting).display)
        hand.screen.query_one(Setting).focus_field()
        hand.screen.query_one(Setting).raw = "plain"
        await hand.press("enter")
        await hand.until(lambda: app.wizard.counted_for == str(base))
        goes_on.set()
        await hand.until(late.is_set)
        await app.workers.wait_for_complete()
        await hand.pilot.pause()
        assert not hand.screen.query_one("#closed").display


async def test_a_template_that_the_models_tokenizer_cannot_write_closes_the_way_on(
    wizard: Make, flags: dict[str, Any], tmp_path: Path
) -> None:
    base = shutil.copytree(flags["model"], tmp_path / "base")
    words = (base / "tokenizer.json").read_text(encoding="utf-8").replace("<|im_start|>", "<|begin|>")
    (base / "tokenizer.json").write_text(words, encoding="utf-8")
    app = wizard({"dataset": flags["dataset"], "model": str(base), "chat_template": "chatml"})
    async with driven(app) as hand:
        await hand.go_on("ModelScreen", "26 rows")
        await hand.until(lambda: hand.screen.query_one("#closed").display and hand.shows("has no <|im_start|>"))
