"""What is told of a run before it starts, and whether it does so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.checkpoints.proof import read_manifest
from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.events import RunFinished, Warned
from engine.journal import JOURNAL_NAME
from engine.training.expect import expect, pace_of
from tests.engine.runs import losses, plan, train


@pytest.mark.parametrize(("last", "pace"), [(130.0, 10.0), (90.0, None)], ids=["as it goes", "set back"])
def test_a_clock_that_was_set_back_gives_no_pace(tmp_path: Path, last: float, pace: float | None) -> None:
    told = [{"type": "step", "step": step, "t": at} for step, at in ((1, 100.0), (2, 110.0), (4, last))]
    (tmp_path / JOURNAL_NAME).write_text("".join(json.dumps(record) + "\n" for record in told))
    assert pace_of(tmp_path) == pace


def test_a_run_that_is_shorter_than_its_logging_steps_has_a_loss(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _outcome, events = train(dataset=chat_file, model=tiny_model, output=out, max_steps=3, logging_steps=2)
    assert [step for step, _loss in losses(out)] == [2, 3]
    (end,) = [event for event in events if isinstance(event, RunFinished)]
    assert end.loss == losses(out)[-1][1] == read_manifest(out / "checkpoint-3").loss


def test_a_warmup_that_outlasts_the_run_is_told_before_and_at_its_start(
    tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    asked = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "max_steps": 2, "warmup": 5}
    (before,) = expect(plan(**asked), dataset_report(str(chat_file), Reading(), None, "auto", 64)).notes
    _outcome, events = train(**asked)
    assert [event.message for event in events if isinstance(event, Warned) and event.code == "warmup"] == [before]
