"""What may change when a run goes on, and what may not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.proof import read_manifest
from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from tests.conftest import build_tiny_model
from tests.engine.resume.conftest import FLAGS
from tests.engine.resume.test_receipt import change_json
from tests.engine.runs import adapter_bytes, losses, plan, receipt, train


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row ids that are trained on from now on, in order."""
    from engine.training.session import _Rows

    seen: list[int] = []
    fetch = _Rows.__getitem__

    def noting(self: Any, index: int) -> Any:
        seen.append(index)
        return fetch(self, index)

    monkeypatch.setattr(_Rows, "__getitem__", noting)
    return seen


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(2, 1), (7, 1), (4, 2), (3, 3), (26, 1)])
def test_each_row_is_seen_once_an_epoch_when_the_batch_geometry_changes(
    batch_size: int, grad_accum: int, tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = rows_seen(monkeypatch)
    out = tmp_path / "run"
    train(stop_at=3, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    _outcome, events = train(output=out, batch_size=batch_size, grad_accum=grad_accum)
    assert sorted(seen[:26]) == list(range(26))
    assert sorted(seen[26:]) == list(range(26))
    assert receipt(events)["batch_geometry"] == "changed"
    assert events[-1].type == "run_finished"


CONTRADICTIONS = {"rank": {"lora_r": 8}, "alpha": {"lora_alpha": 16}, "targets": {"target_modules": "q_proj,v_proj"}}


@pytest.mark.parametrize("flags", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_settings_that_contradict_the_adapter_are_refused_before_anything_loads(flags: dict[str, Any], run: Path) -> None:
    with pytest.raises(CannotContinue):
        plan(output=run, **flags)


def test_another_base_model_of_equal_shape_is_refused(run: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(CannotContinue):
        plan(output=run, model=other)


def test_new_intervals_win_over_the_saved_ones(run: Path) -> None:
    train(output=run, save_steps=2, keep=100)
    names = {found.name for found in scan(run).checkpoints}
    assert {"checkpoint-6", "checkpoint-8", "checkpoint-10"} <= names


def test_retention_keeps_the_furthest_whatever_their_times(run: Path) -> None:
    for name in ("checkpoint-4", "checkpoint-5"):
        os.utime(run / name, (2_000_000_000, 2_000_000_000))
    train(output=run, save_steps=2, keep=2)
    assert {found.name for found in scan(run).checkpoints} == {"checkpoint-12", "checkpoint-14"}


def test_a_setting_changed_for_the_rest_of_a_run_is_told(run: Path) -> None:
    told = {(found.item, found.asked) for found in plan(output=run, save_steps=2, keep=9).differences}
    assert told == {("settings", "save_steps 2"), ("settings", "keep 9")}


def test_steps_that_float16_skipped_do_not_end_a_run_for_good(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the loss scale does not fit, Trainer counts the step, and neither optimizer nor schedule makes one."""
    from accelerate.optimizer import AcceleratedOptimizer

    step, calls = AcceleratedOptimizer.step, [0]

    def sometimes(self: Any, closure: Any = None) -> None:
        calls[0] += 1
        self._is_overflow = calls[0] in (2, 5)
        if not self._is_overflow:
            step(self, closure)

    monkeypatch.setattr(AcceleratedOptimizer, "step", sometimes)
    flags: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "max_steps": 8, "save_steps": 3, "batch_size": 4}
    train(output=tmp_path / "whole", **flags)
    calls[0] = 0
    train(output=tmp_path / "run", stop_at=3, **flags)
    assert read_manifest(tmp_path / "run" / "checkpoint-3").steps_taken == 2
    _outcome, events = train(output=tmp_path / "run", **flags)
    assert {receipt(events)[item] for item in ("optimizer", "scheduler", "schedule")} == {"ok"}
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(tmp_path / "whole")


@pytest.mark.parametrize(("begun", "then"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_another_precision_goes_on_as_the_plan_says(
    begun: str, then: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    flags: dict[str, Any] = {
        "dataset": chat_file,
        "model": tiny_model,
        "output": tmp_path / "run",
        "epochs": 4,
        "learning_rate": 1e-2,
    }
    train(stop_at=5, precision=begun, **flags)
    outcome, events = train(precision=then, **flags)
    found = receipt(events)
    assert (outcome.state, found["precision"], found["probe_loss"]) == ("finished", "changed", "ok")


def test_random_states_of_another_device_begin_anew_and_are_told(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    """As a run that was begun on a GPU and goes on without one: its digest is over the GPU's state too."""
    flags: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "epochs": 2}
    train(stop_at=3, **flags)
    change_json(tmp_path / "run" / "checkpoint-3" / "manifest.json", device="cuda", rng="0" * 64)
    outcome, events = train(**flags)
    found = receipt(events)
    assert (outcome.state, found["rng"], found["precision"]) == ("finished", "changed", "changed")
