"""What is told of a run before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.journal import JOURNAL_NAME
from engine.training.expect import pace_of


@pytest.mark.parametrize(("last", "pace"), [(130.0, 10.0), (90.0, None)], ids=["as it goes", "set back"])
def test_a_clock_that_was_set_back_gives_no_pace(tmp_path: Path, last: float, pace: float | None) -> None:
    told = [{"type": "step", "step": step, "t": at} for step, at in ((1, 100.0), (2, 110.0), (4, last))]
    (tmp_path / JOURNAL_NAME).write_text("".join(json.dumps(record) + "\n" for record in told))
    assert pace_of(tmp_path) == pace
