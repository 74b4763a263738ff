from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events import RunStarted, Step, Warned
from engine.journal import JOURNAL_NAME, Journal, begun_at, fold, read_journal, standing_attempts


def started(step: int = 0) -> RunStarted:
    return RunStarted("id", "out", None, step, 0.0, 10, 1.0, 5, 5, {}, {})


def done(step: int, loss: float | None = 1.0) -> Step:
    return Step(step, step / 10, loss, 1e-4, 0.5, 100, 10.0)


@pytest.mark.parametrize("posix", [True, False])
def test_a_torn_last_line_is_cut_off_and_nothing_else_is_lost(
    posix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not posix:
        monkeypatch.delattr(os, "pread", raising=False)
    journal = Journal(tmp_path)
    journal.write(started())
    journal.write(done(1))
    journal.close()
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"v": 1, "type": "st')
    again = Journal(tmp_path)
    assert path.read_bytes() == whole
    assert again.attempt == 2
    again.write(done(2))
    again.close()
    assert path.read_bytes().startswith(whole) and [record["type"] for record in read_journal(tmp_path)][2:] == ["step"]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(done(1, math.nan))
    journal.close()
    assert json.loads((tmp_path / JOURNAL_NAME).read_text())["loss"] is None


def test_each_line_has_version_time_attempt_and_type_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    record = journal.write(Warned("x", "y"))
    journal.close()
    assert list(record)[:4] == ["v", "t", "attempt", "type"]


def test_a_later_attempt_replaces_the_steps_past_its_start() -> None:
    def rows(*events: Any) -> list[dict[str, Any]]:
        return [{"type": event.type, "step": event.step, "loss": getattr(event, "loss", None)} for event in events]

    records = rows(started(), done(1), done(2), done(3, 9.0), started(2), done(3, 1.5))
    assert [(row["step"], row["loss"]) for row in fold(records)] == [(1, 1.0), (2, 1.0), (3, 1.5)]


def test_of_the_attempts_those_stand_that_no_later_step_replaced() -> None:
    kinds = [
        ("run_started", 0),
        ("step", 5),
        ("run_started", 3),
        ("step", 4),
        ("run_started", 2),
        ("run_started", 4),
        ("step", 5),
    ]
    records = [{"type": kind, "step": step} for kind, step in kinds]
    assert [begun_at(attempt) for attempt in standing_attempts(records)] == [0, 3, 4]
    assert standing_attempts(records)[1] == records[2:4]


def test_an_attempt_that_did_no_step_replaces_nothing() -> None:
    records = [{"type": "run_started", "step": 0}, {"type": "step", "step": 1}, {"type": "run_started", "step": 0}]
    assert [row["step"] for row in fold(records)] == [1]


@given(st.lists(st.binary(max_size=60)))
def test_no_journal_breaks_its_reader(lines: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / JOURNAL_NAME).write_bytes(b"\n".join(lines))
        assert all(isinstance(record, dict) for record in read_journal(Path(folder)))


def test_attempts_of_one_process_are_numbered_as_those_of_several(tmp_path: Path) -> None:
    """It went back after a jump, or begins again with fewer rows at a time."""
    journal = Journal(tmp_path)
    for event in (started(), done(1), started(), done(1)):
        journal.write(event)
    journal.close()
    journal = Journal(tmp_path)
    journal.write(started())
    journal.close()
    assert [record["attempt"] for record in read_journal(tmp_path)] == [1, 1, 2, 2, 3]
