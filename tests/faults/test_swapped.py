"""What was checked is what is loaded: files of a checkpoint that are swapped after it was judged."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.verified import private_copy
from engine.config import RunConfig
from engine.errors import CannotContinue
from engine.export.adapter import export_adapter
from engine.export.source import ExportSource
from engine.training.trainer import Trainer
from tests.engine.checkpoints.folders import seal, write_checkpoint
from tests.engine.runs import plan, train

SLOWER = ("scheduler.pt", "adapter_model.safetensors", "trainer_state.json")


class Touch:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state.pth", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)]
)
def test_a_file_swapped_between_the_plan_and_the_load_is_refused_and_not_run(
    name: str, tmp_path: Path, stopped_run: Path
) -> None:
    import torch

    out = Path(shutil.copytree(stopped_run, tmp_path / "run"))
    planned = plan(output=out)
    assert planned.checkpoint is not None
    torch.save(Touch(tmp_path / "owned"), planned.checkpoint.path / name)
    with pytest.raises(CannotContinue, match="between being checked and being loaded"):
        Trainer(planned).run(lambda event, record: None, lambda: None)
    assert not (tmp_path / "owned").exists()
    assert not list(out.glob(".staging-*"))


@pytest.mark.parametrize("sealed", [True, False], ids=["with a manifest", "without"])
def test_another_whole_checkpoint_in_its_place_is_refused(sealed: bool, tmp_path: Path) -> None:
    judged = write_checkpoint(tmp_path / "checkpoint-2", 2, 0.2)
    other = write_checkpoint(tmp_path / "other", 3, 0.3)
    if sealed:
        seal(judged)
        seal(other)
    known = inspect_folder(judged)
    judged.rename(tmp_path / "away")
    other.rename(judged)
    with pytest.raises(CannotContinue), private_copy(known, tmp_path):
        pass


def test_one_that_a_run_at_work_removed_meanwhile_is_told_as_that_by_an_export(tmp_path: Path) -> None:
    judged = write_checkpoint(tmp_path / "run" / "checkpoint-2", 2, 0.2)
    source = ExportSource(inspect_folder(judged), tmp_path, "base", RunConfig(), base_proven=True)
    shutil.rmtree(judged)
    with pytest.raises(CannotContinue, match="it was removed"):
        export_adapter(source, tmp_path / "to")


def test_a_copy_that_finds_no_room_is_not_told_as_a_checkpoint_that_somebody_changed(tmp_path: Path) -> None:
    judged = inspect_folder(write_checkpoint(tmp_path / "checkpoint-2", 2, 0.2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), private_copy(judged, tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_copy_is_private_whatever_the_umask_and_is_gone_afterwards(tmp_path: Path) -> None:
    judged = inspect_folder(write_checkpoint(tmp_path / "checkpoint-2", 2, 0.2))
    before = os.umask(0)
    try:
        with private_copy(judged, tmp_path) as copy:
            assert copy.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(stop_at=2, dataset=chat_file, model=tiny_model, output=out, epochs=1, batch_size=4)
    return out
