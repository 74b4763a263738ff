"""Runs shown in trackers: one curve however often the run is continued, and a missing package told before anything happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.training import trackers
from tests.engine.runs import losses, train

FLAGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "save_steps": 3}


def test_a_run_continued_in_tensorboard_is_one_curve(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    given = {"dataset": chat_file, "model": tiny_model, "output": out, "report_to": "tensorboard", **FLAGS}
    before = dict(os.environ)
    train(stop_at=3, **given)
    train(output=out)
    (folder,) = (out / "tensorboard").iterdir()
    seen = EventAccumulator(str(folder))
    seen.Reload()
    shown = [(event.step, event.value) for event in seen.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses(out)]
    assert dict(os.environ) == before


def test_names_are_known_ones_and_each_once() -> None:
    assert RunConfig(report_to=" wandb,tensorboard , wandb").report_to == "wandb,tensorboard"
    assert RunConfig(report_to="none").report_to is None
    with pytest.raises(ValueError, match="'weights'"):
        RunConfig(report_to="weights")


def test_what_the_user_set_for_a_tracker_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(trackers.importlib, "import_module", lambda name: None)
    with trackers.tracked(RunConfig(report_to="wandb"), "0123456789ab", tmp_path):
        assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_RUN_ID"]) == ("mine", "0123456789ab")
        monkeypatch.setenv("SET_BY_A_LIBRARY", "1")
    assert os.environ["WANDB_PROJECT"] == "mine" and "WANDB_RUN_ID" not in os.environ
    assert os.environ["SET_BY_A_LIBRARY"] == "1"


def test_a_tracker_that_fails_in_the_middle_is_told_once_and_the_run_goes_on(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.integration_utils import TensorBoardCallback

    log = TensorBoardCallback.on_log

    def fails(self: Any, args: Any, state: Any, *rest: Any, **options: Any) -> None:
        if state.global_step >= 3:
            raise ConnectionError("the server is gone")
        log(self, args, state, *rest, **options)

    monkeypatch.setattr(TensorBoardCallback, "on_log", fails)
    flags = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "report_to": "tensorboard", **FLAGS}
    outcome, events = train(**flags)
    told = [event for event in events if event.type == "warned"]
    assert [event.code for event in told] == ["tracker"] and "the server is gone" in told[0].message  # type: ignore[attr-defined]
    assert outcome.state == "finished" and losses(tmp_path / "run")[-1][0] == outcome.step


def test_a_tracker_that_cannot_begin_is_an_error_of_the_settings(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.integration_utils import TensorBoardCallback

    def refuses(self: Any, *_arguments: Any, **_options: Any) -> None:
        raise PermissionError("no such project")

    monkeypatch.setattr(TensorBoardCallback, "on_train_begin", refuses)
    with pytest.raises(ConfigError, match="no such project"):
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", report_to="tensorboard", **FLAGS)
