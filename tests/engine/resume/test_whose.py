"""Two runs in one folder: going on with the one that is not the folder's touches nothing of the other's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.folder import run_id_of
from tests.engine.resume.test_receipt import change_json
from tests.engine.runs import plan, train


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run to step 6 in folder `one`, in which checkpoint-3 of another one lies, of rank 4 and another rate."""
    folder = tmp_path_factory.mktemp("two")
    flags: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "batch_size": 4}
    train(**flags, output=folder / "one", max_steps=6, save_steps=2)
    train(**flags, output=folder / "other", max_steps=3, save_steps=3, lora_r=4, lora_alpha=8, learning_rate=1e-3)
    shutil.copytree(folder / "other" / "checkpoint-3", folder / "one" / "checkpoint-3")
    return folder / "one"


def test_it_goes_on_in_a_folder_of_its_own_and_the_others_checkpoints_stay(
    two: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = Path(shutil.copytree(two, tmp_path / "one"))
    named: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "max_steps": 8, "save_steps": 2, "keep": 1}
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
    decided = plan(resume=out / "checkpoint-3", **named)
    assert (decided.mode, decided.output_dir.name) == ("continue", "one-2")
    assert "the folder it lies in is another run's" in decided.reason
    assert decided.run_id != run_id_of(out) and decided.parent is not None and decided.parent.endswith("/checkpoint-3")
    train(resume=out / "checkpoint-3", **named)
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
    assert [one.name for one in scan(out.with_name("one-2")).checkpoints] == ["checkpoint-8"]


def test_its_settings_are_its_own_and_not_those_that_lie_beside_it(two: Path, tiny_model: Path, chat_file: Path) -> None:
    config = plan(resume=two / "checkpoint-3", dataset=chat_file, model=tiny_model, max_steps=8).config
    assert (config.lora_r, config.lora_alpha) == (4, 8)


def test_the_folders_own_run_goes_on_where_it_lies(two: Path) -> None:
    decided = plan(resume=two / "checkpoint-6", max_steps=8)
    assert (decided.output_dir, decided.run_id) == (two, run_id_of(two))


def test_of_two_runs_of_another_tool_the_one_not_taken_up_goes_on_elsewhere(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    second = shutil.copytree(run / "checkpoint-7", run / "checkpoint-5")
    state = json.loads((second / "trainer_state.json").read_text())
    rows = [{**row, "loss": row["loss"] + 1} for row in state["log_history"] if row["step"] <= 5]
    change_json(second / "trainer_state.json", global_step=5, epoch=5 / 7, log_history=rows)
    flags: dict[str, Any] = {"dataset": trainers / "data.jsonl", "model": taught_model, "train_on": "all"}
    assert plan(resume=second, **flags).output_dir == run, "no run of ours is there yet"
    train(output=run, max_steps=16, **flags)
    assert plan(resume=run / "checkpoint-16", max_steps=18, **flags).output_dir == run
    assert plan(resume=second, **flags).output_dir.name == "run-2"


def test_how_a_run_ended_is_that_run_s(two: Path, tmp_path: Path) -> None:
    """Its answers are taken for a new run from there; to be continued it is refused for what it is."""
    out = Path(shutil.copytree(two, tmp_path / "one"))
    begun = plan(init_from=out / "final")
    assert (begun.mode, begun.config.dataset) == ("weights", plan(init_from=out / "checkpoint-6").config.dataset)
    with pytest.raises(CannotContinue) as refused:
        plan(resume=out / "final")
    assert f"--init-from {out / 'final'}" in refused.value.fix


@pytest.mark.parametrize(("name", "steps"), [("checkpoint-4", 4), ("checkpoint-6", 6)])
def test_a_branch_with_nothing_left_to_train_is_no_run(two: Path, tmp_path: Path, name: str, steps: int) -> None:
    """Its folder would hold a result, and no checkpoint or settings to go on with."""
    with pytest.raises(CannotContinue, match="nothing is left to train") as refused:
        plan(resume=two / name, output=tmp_path / "branch", max_steps=steps)
    assert f"It stands at epoch {steps * 4 / 26:.2f}, step {steps}," in refused.value.detail
    assert "--epochs" in refused.value.fix
