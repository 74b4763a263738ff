"""A plan is carried out over the folder that it was made over, or not at all: a person may look at a review for an hour."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.proof import read_manifest
from engine.errors import CannotContinue
from engine.training.trainer import Trainer
from tests.conftest import chats, write_jsonl
from tests.engine.runs import plan, train


@pytest.fixture(scope="module")
def flags(tiny_model: Path, chat_file: Path) -> dict[str, Any]:
    return {"dataset": chat_file, "model": tiny_model, "batch_size": 4, "save_steps": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, flags: dict[str, Any]) -> Path:
    """A run of four steps, saved at 2 and 4."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(**flags, output=out, max_steps=4)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(decided: Any) -> CannotContinue:
    with pytest.raises(CannotContinue, match="something was saved there since this start was planned") as found:
        Trainer(decided).run(lambda event, record: None, lambda: None)
    return found.value


def test_a_fresh_start_does_not_begin_in_a_folder_that_has_become_a_runs(
    finished: Path, flags: dict[str, Any], tmp_path: Path
) -> None:
    decided = plan(**flags, output=tmp_path / "run", max_steps=4)
    assert decided.mode == "fresh"
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(out)
    assert "checkpoint-4" in refused(decided).detail
    after = contents(out)
    assert {name: after[name] for name in before} == before


def test_a_run_does_not_go_on_from_a_checkpoint_that_is_no_longer_its_furthest(
    finished: Path, flags: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    later = shutil.move(out / "checkpoint-4", tmp_path / "checkpoint-4")
    decided = plan(output=out)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-2"
    shutil.move(later, out / "checkpoint-4")
    assert "checkpoint-4" in refused(decided).detail


def test_what_the_plan_has_passed_over_does_not_keep_it_from_starting(
    finished: Path, flags: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"torn")
    outcome = Trainer(plan(output=out)).run(lambda event, record: None, lambda: None)
    assert outcome.state == "finished"


def test_rows_that_were_edited_since_they_were_compared_are_not_trained_on_as_the_old_ones(
    finished: Path, flags: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    data = Path(shutil.copy(flags["dataset"], tmp_path / "chats.jsonl"))
    decided = plan(output=out, dataset=data, max_steps=6)
    data.write_text(
        data.read_text().replace("question 3", "question 4", 1)
    )  # as many tokens, so the order of the rows stays
    with pytest.raises(CannotContinue, match="dataset") as found:
        Trainer(decided).run(lambda event, record: None, lambda: None)
    assert "dataset" in found.value.detail


def test_a_fresh_run_names_the_rows_that_it_was_trained_on(flags: dict[str, Any], tmp_path: Path) -> None:
    data = Path(shutil.copy(flags["dataset"], tmp_path / "chats.jsonl"))
    decided = plan(**{**flags, "dataset": data}, output=tmp_path / "run", max_steps=2)
    write_jsonl(data, chats(30))
    Trainer(decided).run(lambda event, record: None, lambda: None)
    assert read_manifest(tmp_path / "run" / "checkpoint-2").identities.dataset.rows == 30
