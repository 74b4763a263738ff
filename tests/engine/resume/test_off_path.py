"""A checkpoint whose loss had left its path is named as that, with the last good one, wherever it is recommended."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checkpoints.scan import glance, scan
from engine.course.monitor import LossMonitor
from engine.resume.off_path import off_path
from engine.resume.recommend import recommend, settle
from engine.resume.report import check_report
from tests.engine.checkpoints.folders import seal, write_checkpoint, write_torch_files

PATH = [0.3 + 0.01 * (step % 3) for step in range(60)]
RUINED = [7.0 + 0.1 * (step % 3) for step in range(20)]


@pytest.fixture(params=["ours", "another tool's"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """checkpoint-60 from when all was well, checkpoint-80 from after the loss had left its path."""
    for step in (60, 80):
        losses = [*PATH, *RUINED][:step]
        one = write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, losses, torch_files=write_torch_files)
        if request.param == "ours":
            monitor = LossMonitor()
            for number, loss in enumerate(losses, 1):
                monitor.observe(number, loss, False)
            seal(one, monitor=monitor.state())
    return tmp_path


def test_the_furthest_is_recommended_with_a_warning_and_the_last_good_one(folder: Path) -> None:
    _found, choice = settle(glance(folder))
    assert choice == recommend(scan(folder))
    assert choice.checkpoint is not None and choice.checkpoint.name == "checkpoint-80"
    assert "good until step 60" in choice.reason and "checkpoint-60" in choice.reason


def test_who_asks_for_advice_is_not_told_to_keep_going(folder: Path) -> None:
    advice = check_report(scan(folder))["advice"]
    assert advice["state"] == "unknown" and "left its path" in advice["message"]


def test_nothing_is_said_of_a_loss_on_its_path(folder: Path) -> None:
    assert [off_path(one) is not None for one in scan(folder).checkpoints] == [False, True]
