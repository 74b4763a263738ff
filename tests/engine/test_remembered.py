"""What the wizard remembers: kept, offered, and never able to harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.remembered import NAME, RECENT, Remembered, after_run, load_remembered, save_remembered, source_remembered


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_TUI_STATE", str(tmp_path))
    return tmp_path


def test_what_was_kept_comes_back() -> None:
    kept = Remembered({"dataset": "聊天.jsonl", "epochs": 2.5}, ("聊天.jsonl",), ("m",), {"theme": "nord"})
    save_remembered(kept)
    assert load_remembered() == kept


def test_nothing_is_remembered_at_first() -> None:
    assert load_remembered() == Remembered()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 99}', b'{"schema": 1, "answers": 3}', b"[" * 100_000,
     b'{"schema": 1, "answers": {}, "datasets": 1, "models": [], "look": {}}'],
)  # fmt: skip
def test_a_damaged_file_is_an_empty_one(state: Path, content: bytes) -> None:
    (state / NAME).write_bytes(content)
    assert load_remembered() == Remembered()


def test_answers_that_no_run_takes_any_more_are_not_taken_for_one() -> None:
    """Another version has written them, or a person: nobody could go on, and nothing would say whose they are."""
    save_remembered(Remembered({"dataset": "d", "scheduler": "polynomial", "lora_r": "many", "epochs": 2.5}))
    source = source_remembered()
    assert source is not None and source.values == {"dataset": "d", "epochs": 2.5}


def test_answers_that_are_no_settings_are_forgotten(state: Path) -> None:
    save_remembered(Remembered({"dataset": "a", "load_everything": True}))
    assert load_remembered().answers == {"dataset": "a"}


def test_a_folder_that_cannot_be_written_costs_only_the_memory(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "file").write_text("")
    monkeypatch.setenv("LORA_TUI_STATE", str(state / "file" / "under"))
    save_remembered(Remembered({"dataset": "a"}))
    assert load_remembered() == Remembered()


def test_how_one_start_began_is_not_remembered() -> None:
    answers = {"dataset": "a", "resume": "out/x/checkpoint-3", "init_from": None, "accept": ("dataset",)}
    assert after_run(Remembered(), answers).answers == {"dataset": "a"}


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=40))
def test_recent_datasets_are_the_latest_ones_without_repetition(used: list[str]) -> None:
    known = Remembered()
    for one in used:
        known = after_run(known, {"dataset": one})
    latest = list(dict.fromkeys(reversed(used)))[:RECENT]
    assert list(known.datasets) == latest


def test_headless_is_offered_the_last_answers() -> None:
    save_remembered(Remembered({"dataset": "a", "model": "m"}))
    found = source_remembered()
    assert found is not None
    assert dict(found.values) == {"dataset": "a", "model": "m"}


def test_headless_is_offered_nothing_where_nothing_was_answered() -> None:
    assert source_remembered() is None
