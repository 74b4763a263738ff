"""A template that loops for ever: whoever renders it comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.data.rendering import bounded, rendered
from engine.eject import eject, script
from engine.errors import ModelError
from engine.export import samples
from engine.export.chat import Chat, question
from engine.export.modelfile import serving
from engine.models.folder import load_tokenizer
from tests.conftest import chats, write_jsonl
from tests.engine.runs import train

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def endless(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tokenizer whose template has no end, and less patience with it."""
    monkeypatch.setattr("engine.data.rendering.SECONDS", 0.3)
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = LOOP
    return tokenizer


@pytest.mark.parametrize(
    "renders",
    [lambda tokenizer: Chat(None, tokenizer)._tokens(question("Hello")), lambda tokenizer: samples._fixed(tokenizer, False)],
    ids=["a chat", "questions of an export"],
)
def test_what_needs_the_text_is_told_that_there_is_no_end(renders: Callable[[Any], Any], endless: Any) -> None:
    with pytest.raises(ModelError, match="does not come to an end"):
        renders(endless)


def test_a_modelfile_is_written_without_the_template(endless: Any) -> None:
    source = SimpleNamespace(config=SimpleNamespace(max_length=64))
    asked = samples.Sample("", False, (), (), question("Hello"))
    found = serving(source, endless, samples.Samples((asked,), True, samples.Manner()), SimpleNamespace(context=64), False)
    assert found.template is None


def test_an_ejected_script_is_not_written_with_the_template(
    endless: Any, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset=write_jsonl(tmp_path / "rows.jsonl", chats(2)), model=tiny_model, output=tmp_path / "out", max_steps=1)
    monkeypatch.setattr(script, "load_tokenizer", lambda folder, template: endless)
    with pytest.raises(ModelError, match="does not come to an end"):
        eject(tmp_path / "out", "script")


def test_a_template_that_writes_too_much_is_stopped(endless: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.rendering.LONGEST", 10)
    endless.chat_template = "eleven or more"
    with pytest.raises(ModelError, match="does not come to an end"):
        rendered(endless, question("Hello"))


def test_who_waits_for_another_to_render_has_all_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.rendering.SECONDS", 1.0)
    begun, ended = threading.Event(), []

    def first() -> None:
        with bounded():
            begun.set()
            time.sleep(0.7)
            ended.append(time.monotonic())

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    with bounded():
        assert ended
        time.sleep(0.7)
    thread.join(10)
