"""Folders that are something else: no run goes there, and nothing of them is touched."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ConfigError, DatasetError
from engine.resume.seen import see
from tests.conftest import chats, write_jsonl
from tests.engine.runs import plan, train

FLAGS: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "save_steps": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A finished run; the tests only plan on it."""
    out = tmp_path_factory.mktemp("unfit") / "run"
    train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("how", ["auto", "never"])
@pytest.mark.parametrize("below", ["checkpoint-2", "checkpoint-2/mine", "final"])
def test_a_checkpoint_is_no_place_for_a_run(run: Path, tiny_model: Path, chat_file: Path, below: str, how: str) -> None:
    before = files(run)
    with pytest.raises(ConfigError) as refused:
        plan(dataset=chat_file, model=tiny_model, output=run / below, resume=how, **FLAGS)
    assert f"--output {run}" in refused.value.fix
    assert ("--init-from" if below == "final" else f"--resume {run}/checkpoint-2") in refused.value.fix
    assert files(run) == before


def test_a_checkpoint_is_no_place_for_a_run_that_goes_on_from_a_named_one(run: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(resume=run / "checkpoint-2", output=run / "final", max_steps=9)
    assert f"--output {run}" in refused.value.fix


@pytest.mark.parametrize("below", [".trash/mine", ".staging-12-1"])
def test_what_runs_clear_is_no_place_for_a_run(run: Path, tiny_model: Path, chat_file: Path, below: str) -> None:
    with pytest.raises(ConfigError, match="whose content runs remove"):
        plan(dataset=chat_file, model=tiny_model, output=run / below, **FLAGS)


def test_a_model_s_folder_is_no_place_for_a_run(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    for folder in (tiny_model, other):
        with pytest.raises(ConfigError, match="is a model's folder"):
            plan(dataset=chat_file, model=tiny_model, output=folder)
    assert plan(dataset=chat_file, model=tiny_model, output=other / "out").mode == "fresh"  # nothing there reads that


def test_a_folder_that_rows_are_read_from_is_no_place_for_a_run(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "a.jsonl", chats(8))
    for folder in (data, data / "out", data / "out" / "deeper"):
        with pytest.raises(ConfigError, match="would be read as rows"):
            plan(dataset=data, model=tiny_model, output=folder)
    assert plan(dataset=data, model=tiny_model, output=data / ".out").mode == "fresh"  # what is hidden is not read
    (data / "a.jsonl").rename(data / "train.jsonl")
    assert plan(dataset=data, model=tiny_model, output=data / "out").mode == "fresh"  # nor what is beside a training split
    with pytest.raises(ConfigError, match="would be read as rows"):
        plan(dataset=data, model=tiny_model, output=data / "train" / "out")


@pytest.mark.usefixtures("as_anybody")
def test_what_may_not_be_looked_into_beside_the_rows_holds_up_no_plan(tmp_path: Path, tiny_model: Path) -> None:
    closed, data = tmp_path / "closed", tmp_path / "data"
    data.mkdir()
    (data / "another").symlink_to(closed / "train.jsonl")
    (data / "other.jsonl").symlink_to(closed / "train.jsonl")
    closed.mkdir(mode=0)
    with pytest.raises(ConfigError, match="would be read as rows"):
        plan(dataset=data, model=tiny_model, output=data / "out")


def test_a_folder_that_goes_while_a_dataset_is_looked_through_is_told_as_one_that_cannot_be_read(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(folder: Path, pattern: str) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / "below"))

    write_jsonl(tmp_path / "a.jsonl", chats(8))
    monkeypatch.setattr(Path, "rglob", gone)
    with pytest.raises(DatasetError, match="cannot be read"):
        plan(dataset=tmp_path, model=tiny_model, output=tmp_path / "out")
    problem = see(tmp_path / "out", RunConfig(dataset=str(tmp_path), model=str(tiny_model))).place.problem
    assert isinstance(problem, DatasetError)


def test_a_run_inside_its_dataset_s_folder_that_may_lie_there_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", chats(8))
    train(dataset=data, model=tiny_model, output=data / "out", **FLAGS)
    onwards = plan(dataset=data, model=tiny_model, output=data / "out", **FLAGS | {"max_steps": 4})
    assert (onwards.mode, onwards.refused) == ("continue", False)


def test_another_tool_s_folder_with_its_adapter_beside_the_checkpoints_goes_on(
    run: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "theirs"
    shutil.copytree(run / "final", out)
    shutil.copytree(run / "checkpoint-2", out / "checkpoint-2")
    assert plan(dataset=chat_file, model=tiny_model, output=out, **FLAGS).mode == "complete"


def test_the_wizard_s_step_says_the_same(run: Path, tiny_model: Path) -> None:
    assert isinstance(see(run / "checkpoint-2").place.problem, ConfigError)
    assert isinstance(see(tiny_model, RunConfig(model=str(tiny_model))).place.problem, ConfigError)
    assert see(run).place.problem is None
