"""Words in columns and parts of turns that no format has a place for are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_jsonl
from tests.engine.data.rows import read_rows
from tests.engine.data.test_formats import SYSTEM, TURNS, read


@pytest.mark.parametrize("row", [{"prompt": "Who? ", "completion": "We."}, {"text": "We."}])
def test_a_system_text_that_plain_rows_have_no_place_for_is_told(row: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, row).notes == ()
    assert "not learned are the columns system;" in read(tmp_path, {**row, "system": "Short."}).notes[0]


def test_the_note_on_a_system_text_beside_a_pair_says_how_it_is_learned(tmp_path: Path) -> None:
    """As OpenOrca is."""
    row = {"id": "1", "system_prompt": "Short.", "question": "Who?", "response": "We."}
    (note,) = read(tmp_path, row).notes
    assert "the columns system_prompt;" in note and note.endswith("--columns instruction=question,output=response")
    found = read_rows(str(tmp_path / "rows.jsonl"), columns="instruction=question,output=response")
    assert (found[0], found.notes) == ({"messages": [SYSTEM, *TURNS]}, ())


UNREAD: dict[str, tuple[dict[str, Any], str]] = {
    "beside turns": ({"id": "a", "row_id": "b", "messages": TURNS, "mood": "calm", "score": 0.5, "rank": "3"}, "mood"),
    "beside an instruction": (
        {"instruction": "Who?", "output": "We.", "context": "far", "text": "Who? We."},
        "context, text",
    ),
    "beside a pair": ({"question": "Who?", "answer": "We.", "hint": "You."}, "hint"),
    "beside a text": ({"text": "We.", "title": "Us"}, "title"),
    "other turns": ({"messages": TURNS, "conversation": TURNS}, "conversation"),
    "functions": ({"messages": TURNS, "functions": [{"name": "lamp"}], "flags": [], "ranks": [1]}, "functions"),
    "what may say whether an answer is wanted": ({"prompt": "Who?", "completion": "We.", "label": 0, "seen": True}, "label"),
    "how an answer is judged": (
        {"prompt": "Who?", "completion": "We.", "is_correct": False, "redacted": False},
        "is_correct",
    ),
    "what a row weighs": ({"messages": TURNS, "weight": 0.0, "height": 2}, "weight"),
    "what was said before beside turns": ({"messages": TURNS, "history": [["Hm?", "Yes."]]}, "history"),
    "of what kind a text is": ({"text": "We.", "label": False}, "label"),
    "the second of two system texts": ({"messages": TURNS, "system": "Short.", "system_prompt": "Long."}, "system_prompt"),
    "what was said before as text": ({"instruction": "Who?", "output": "We.", "history": "Hm?"}, "history"),
    "what TRL tells a template": (
        {"messages": TURNS, "chat_template_kwargs": {"enable_thinking": False}, "metadata": {"by": "us"}},
        "chat_template_kwargs",
    ),
    "many": ({"text": "We.", **{f"c{n}": "x" for n in range(9)}}, "c0, c1, c2, c3, c4, c5, c6, c7, ..."),
}


@pytest.mark.parametrize("where", UNREAD)
def test_columns_whose_words_are_not_read_are_told(where: str, tmp_path: Path) -> None:
    row, columns = UNREAD[where]
    (note,) = read(tmp_path, row).notes
    assert f"columns that are not read: {columns};" in note


def test_what_only_later_rows_have_is_told_too(tmp_path: Path) -> None:
    """As of several datasets that were put into one file."""
    answer = {**TURNS[1], "reasoning": "Hm."}
    found = read(tmp_path, {"messages": TURNS}, {"messages": [TURNS[0], answer], "mood": "calm"})
    assert [note.rpartition("read: ")[2] for note in found.notes] == ["mood; --columns chooses others", "reasoning"]


def test_parts_of_turns_whose_words_are_not_read_are_told(tmp_path: Path) -> None:
    answer = {**TURNS[1], "reasoning": "Hm.", "id": "a", "toxic": False, "thinking": "Hm."}
    (note,) = read(tmp_path, {"messages": [TURNS[0], answer]}).notes
    assert note.endswith("parts of turns that are not read: reasoning")
    (note,) = read(tmp_path, {"conversation": [{"human": "Who?", "assistant": "We.", "thought": "Hm."}]}).notes
    assert note.endswith("parts of turns that are not read: thought")


def test_columns_that_are_read_are_not_told_where_the_speakers_have_other_names(tmp_path: Path) -> None:
    turns = [{"who": "human", "what": "Who?"}, {"who": "bot", "what": "We."}]
    data = write_jsonl(tmp_path / "rows.jsonl", [{"talk": turns, "system": "Short.", "mood": "calm"}])
    found = read_rows(str(data), columns="messages=talk,role=who,content=what")
    assert found == [{"messages": [SYSTEM, *TURNS]}]
    assert [note.rpartition("read: ")[2] for note in found.notes] == ["mood; --columns chooses others"]


def test_a_renamed_column_that_is_not_learned_is_told_by_its_own_name(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"ask": "Who?", "say": "We.", "sys": "Short."}])
    (note,) = read_rows(str(data), columns="prompt=ask,completion=say,system=sys").notes
    assert "the columns sys;" in note and note.endswith("instruction=ask,output=say")
