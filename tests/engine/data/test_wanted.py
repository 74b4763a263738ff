"""Answers that are not to be learned: unwanted ones, and those about what is no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.data.rows import TURNS, read, refused


@pytest.mark.parametrize("mark", ["label", "kto_tag"])
@pytest.mark.parametrize(
    "row", [{"messages": TURNS}, {"instruction": "Who?", "output": "We."}, {"prompt": "Who?", "completion": "We."}]
)
def test_an_answer_that_is_not_wanted_is_not_taught(row: dict[str, Any], mark: str, tmp_path: Path) -> None:
    """As KTO's datasets hold them, in a table as text."""
    assert read(tmp_path, {**row, mark: True}).notes == ()
    for value in (False, "False"):
        error = refused(tmp_path, {**row, mark: True}, {**row, mark: value})
        assert "row 2" in error.title and f'"{mark}" is false' in error.title and f'"{mark}" is true' in error.fix


@pytest.mark.parametrize(
    "beside",
    [{"images": ["a.png"]}, {"image": {"bytes": None, "path": "a.png"}}, {"audio": "a.wav", "input": "<audio>"},
     {"image_path": "a.png", "input": "<image>"}],
)  # fmt: skip
def test_an_answer_about_what_is_no_text_is_not_taught(beside: dict[str, Any], tmp_path: Path) -> None:
    """Else a model would learn to make up what is in a picture."""
    row = {"instruction": "What is there?", "output": "A lamp."}
    error = refused(tmp_path, row, {**row, **beside})
    assert f'row 2: has "{next(iter(beside))}"' in error.title and "without" in error.fix
    assert read(tmp_path, {**row, "images": [], "image_id": 4}, {**row, "image": None}).notes == ()
    assert "not read: image;" in read(tmp_path, {**row, "image": "https://example.com/a.png"}).notes[0]
