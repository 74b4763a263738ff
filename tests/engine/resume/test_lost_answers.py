"""What is told where answers are missing, or the run's own that would have given them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.answers import gather
from engine.errors import CannotContinue, ConfigError, ModelError
from engine.folder import run_id_of
from engine.resume.plan import plan_run
from tests.engine.checkpoints.folders import write_checkpoint
from tests.engine.runs import plan, train


@pytest.fixture
def run(stopped: Path) -> Path:
    """The tests only plan on it."""
    return stopped


@pytest.mark.parametrize("way", ["resume", "init_from"])
def test_what_is_wrong_with_a_named_checkpoint_is_told_before_the_answers_it_would_have_given(
    way: str, run: Path, tmp_path: Path
) -> None:
    link = tmp_path / "latest"
    link.symlink_to(run / "checkpoint-5")
    with pytest.raises(CannotContinue) as refused:
        plan_run(gather({way: str(link)}, environ={}).resolved)
    assert "is a link" in refused.value.detail


def test_a_torn_manifest_of_a_named_checkpoint_is_told_and_not_that_answers_are_missing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = copy / "checkpoint-5" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(CannotContinue, match="cannot be continued") as refused:
        plan_run(gather({"resume": str(copy / "checkpoint-5")}, environ={}).resolved)
    assert "manifest.json cannot be read" in refused.value.detail


def test_a_folder_of_damaged_checkpoints_only_is_told_before_answers_that_are_missing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "run.toml").unlink()
    for folder in copy.glob("checkpoint-*"):
        (folder / "optimizer.pt").unlink()
    with pytest.raises(CannotContinue, match="none of its checkpoints can be continued") as refused:
        answers = gather({"output": str(copy)}, environ={})
        plan_run(answers.resolved, answers.found)
    assert "optimizer.pt is missing" in refused.value.detail and "--init-from" in refused.value.fix


def test_of_a_run_whose_settings_are_lost_it_is_told_what_to_name(run: Path, tmp_path: Path, chat_file: Path) -> None:
    """What its journal tells is offered, and not taken up unasked."""
    copy = Path(shutil.copytree(run, tmp_path / "my run"))
    (copy / "run.toml").unlink()
    with pytest.raises(ConfigError, match="missing: --dataset") as refused:
        plan(output=copy)
    assert "run.toml is gone" in refused.value.detail
    command = refused.value.fix.partition(": ")[2]
    assert command == f"lora-tui --yes --output '{copy}' --dataset {chat_file} --save-steps 4"
    words = dict(zip(*[iter(shlex.split(command)[2:])] * 2, strict=True))
    found = plan(**{name.removeprefix("--").replace("-", "_"): value for name, value in words.items()})
    assert (found.mode, found.checkpoint and found.checkpoint.name) == ("continue", "checkpoint-5") and not found.refused
    assert found.run_id == run_id_of(run)
    (copy / "events.jsonl").unlink()
    with pytest.raises(ConfigError, match="--dataset DATASET"):
        plan(output=copy)


@pytest.mark.parametrize("length", [{"epochs": 3}, {"max_steps": 5}])
def test_of_a_run_whose_settings_are_lost_its_steps_and_its_rate_are_what_they_were(
    length: dict[str, Any], tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """In the warmup, where the logged rates would fit every kind of schedule."""
    out, rows = tmp_path / "run", {"dataset": chat_file, "model": tiny_model}
    shape = {"batch_size": 3, "grad_accum": 4, "warmup": 4, "scheduler": "constant", "seed": 0, "weight_decay": 0.125}
    train(stop_at=2, output=out, **rows, **shape, **length)
    as_it_was = plan(output=out)
    (out / "run.toml").unlink()
    lost = plan(output=out, **rows)
    assert not lost.differences and lost.config.weight_decay == 0.125
    assert (lost.length, lost.next_learning_rate) == (
        as_it_was.length,
        as_it_was.next_learning_rate,
    )


def test_of_a_run_whose_settings_are_lost_those_that_would_be_others_are_named_too(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    train(dataset=chat_file, model=tiny_model, output=out, max_steps=2, keep=7, max_length=64, stop_at=1)
    (out / "run.toml").unlink()
    with pytest.raises(ConfigError) as refused:
        plan(output=out, max_grad_norm=0.5)
    assert refused.value.fix.endswith(f"--dataset {chat_file} --max-length 64 --keep 7")


def test_settings_that_no_step_was_done_with_are_not_taken_up(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:

    asked: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "max_steps": 2}
    with pytest.raises(ModelError):
        train(**asked, target_modules="nosuch")
    outcome, _events = train(**asked)
    assert (outcome.state, outcome.step) == ("finished", 2)


def test_an_answer_that_is_missing_is_told_where_no_run_would_have_given_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a folder's lost run.toml told of where the run is none of ours, or not gone on with."""
    monkeypatch.chdir(tmp_path)  # no last run is there
    lost = Path(shutil.copytree(run, tmp_path / "lost"))
    (lost / "run.toml").unlink()
    (tmp_path / "empty").mkdir()
    write_checkpoint(tmp_path / "theirs" / "checkpoint-7", 7, 1.0)
    nowhere: list[dict[str, Any]] = [
        {}, {"output": tmp_path / "none"}, {"output": tmp_path / "empty"}, {"output": tmp_path / "theirs"},
        {"output": lost, "resume": "never"}, {"model": tmp_path}, {"dataset": tmp_path},
    ]  # fmt: skip
    for flags in nowhere:
        with pytest.raises(ConfigError, match=r"missing: --[a-z]") as refused:
            plan_run(gather({name: str(value) for name, value in flags.items()}, environ={}).resolved)
        assert refused.value.detail == "A run needs a dataset and a model."
    with pytest.raises(ConfigError) as refused:
        plan_run(gather({"output": str(lost)}, environ={}).resolved)
    assert "run.toml is gone" in refused.value.detail
