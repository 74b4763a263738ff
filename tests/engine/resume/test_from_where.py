"""Which checkpoint a run goes on from, and into which folder it goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.events import RunStarted, Step
from engine.folder import proposed_output, run_id_of
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import adapter_bytes, losses, plan, train


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_the_furthest_checkpoint_is_taken_and_not_the_newest(run: Path) -> None:
    os.utime(run / "checkpoint-4")
    assert plan(output=run).checkpoint.name == "checkpoint-5"  # type: ignore[union-attr]


def test_a_torn_newest_checkpoint_is_passed_over_with_its_reason(run: Path) -> None:
    (run / "checkpoint-5" / "optimizer.pt").unlink()
    decided = plan(output=run)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-4"
    assert [passed.checkpoint.name for passed in decided.passed_over] == ["checkpoint-5"]


def test_only_damaged_checkpoints_are_refused_and_never_a_new_start(run: Path) -> None:
    for name in ("checkpoint-4", "checkpoint-5"):
        (run / name / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(CannotContinue):
        plan(output=run)


def test_an_earlier_checkpoint_branches_into_a_sibling_with_its_parent_recorded(run: Path) -> None:
    _outcome, events = train(resume=run / "checkpoint-4")
    started = next(event for event in events if isinstance(event, RunStarted))
    assert Path(started.output_dir).name == "run-2"
    furthest = scan(run.with_name("run-2")).checkpoints
    assert all(
        found.manifest and found.manifest.parent and found.manifest.parent.endswith("/checkpoint-4") for found in furthest
    )
    assert (run / "checkpoint-5").is_dir()


def test_never_starts_fresh_beside_what_is_there(run: Path) -> None:
    decided = plan(output=run, resume="never")
    assert (decided.mode, decided.output_dir.name) == ("fresh", "run-2")


def test_init_from_starts_a_new_run_from_the_weights_only(
    run: Path, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    _outcome, events = train(
        dataset=chat_file, model=tiny_model, init_from=run / "checkpoint-5", output=tmp_path / "new", **FLAGS
    )
    started = next(event for event in events if isinstance(event, RunStarted))
    assert (started.step, started.checkpoint) == (0, None)
    first = next(event for event in events if isinstance(event, Step))
    fresh = losses(run)[0][1]
    assert first.loss is not None and first.loss < fresh - 0.1


@pytest.mark.parametrize("how", ["init_from", "resume"])
def test_a_run_from_anothers_checkpoint_that_ends_before_its_first_save_begins_there_again(
    how: str, run: Path, tmp_path: Path
) -> None:
    from engine.journal import read_journal

    source, out = run / "checkpoint-4", tmp_path / "out"
    flags = {how: source, "output": out, "max_steps": 9, "save_steps": 9}
    data = {"dataset": plan(output=run).config.dataset, "model": plan(output=run).config.model}
    whole = tmp_path / "whole"
    train(**{**flags, **data, "output": whole})
    # As a kill leaves it: begun, and nothing saved.
    train(**flags, **data, watch=lambda event: None)
    for path in [*out.glob("checkpoint-*"), out / "final"]:
        shutil.rmtree(path)
    text = (out / "run.toml").read_text()
    (out / "run.toml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("run_id")))
    nameless = plan(output=out)
    assert nameless.checkpoint is not None and nameless.run_id  # without its id it began there all the same
    (out / "run.toml").write_text(text)
    again = plan(output=out)
    assert again.checkpoint is not None and again.checkpoint.path == source
    assert again.mode == ("weights" if how == "init_from" else "continue") and again.output_dir == out
    assert again.run_id == run_id_of(out)
    before = len([record for record in read_journal(out) if record["type"] == "run_started"])
    train(output=out)
    assert adapter_bytes(out) == adapter_bytes(whole)
    assert len([record for record in read_journal(out) if record["type"] == "run_started"]) == before + 1
    for path in [*out.glob("checkpoint-*"), out / "final", source]:
        shutil.rmtree(path)
    with pytest.raises(CannotContinue, match=r"out: its run began from .*checkpoint-4 and had saved nothing yet"):
        plan(output=out)


def test_a_run_stopped_before_its_first_step_goes_on_with_its_own_settings(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    from engine.training.trainer import Trainer

    out = tmp_path / "run"
    Trainer(plan(dataset=chat_file, model=tiny_model, output=out, **FLAGS)).run(lambda event, record: None, lambda: "test")
    assert plan(output=out).config.learning_rate == FLAGS["learning_rate"]


@pytest.mark.parametrize("how", ["init_from", "resume"])
def test_what_is_no_checkpoint_is_told_as_that_whatever_else_is_missing(how: str, run: Path) -> None:
    with pytest.raises(CannotContinue, match="no such checkpoint"):
        plan(**{how: run / "checkpoint-99"})
    with pytest.raises(CannotContinue, match="folder of a run"):
        plan(**{how: run})


def test_a_checkpoint_named_by_a_dot_is_that_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "checkpoint-5")
    found = plan(resume=".")
    assert found.checkpoint is not None and found.checkpoint.name == "checkpoint-5"
    assert found.output_dir == run and found.parent is None


def test_a_copy_under_another_name_is_gone_on_with_where_runs_lie(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = Path(shutil.copytree(run / "checkpoint-5", tmp_path / "backup" / "mine"))
    config = plan(output=run).config
    found = plan(resume=copy, dataset=config.dataset, model=config.model)
    assert found.output_dir == proposed_output(str(config.dataset), str(config.model))


@pytest.mark.parametrize("output", [".", "./"])
def test_a_new_run_beside_the_folder_one_stands_in_has_its_name(
    output: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert plan(output=output, resume="never").output_dir == run.with_name("run-2")
    assert plan(resume="checkpoint-4").output_dir == run.with_name("run-2")


def test_a_folder_with_nothing_but_the_log_of_a_killed_start_is_free(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    (out / "run.log").write_text("loading\n")
    config = plan(output=run).config
    assert plan(dataset=config.dataset, model=config.model, output=out, init_from=run / "checkpoint-4").output_dir == out


def test_what_a_run_is_started_with_is_on_the_disk_before_it_is_said_to_have_begun(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out, there = tmp_path / "run", []

    def watch(event: Any) -> None:
        if isinstance(event, RunStarted):
            there.append((out / "run.toml").is_file())

    train(dataset=chat_file, model=tiny_model, output=out, max_steps=1, watch=watch, batch_size=4)
    assert there == [True]


def test_a_checkpoint_of_another_run_that_stands_in_the_way_is_told(
    run: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "own"
    train(stop_at=1, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    shutil.copytree(run / "checkpoint-4", out / "checkpoint-4")
    shutil.copytree(out / "checkpoint-1", out / "checkpoint-8")  # its own, which it will not miss
    _outcome, events = train(output=out)
    told = [event.message for event in events if event.type == "warned" and event.code == "replaced"]
    (kept,) = (out / ".trash").glob("checkpoint-4.*")
    assert told == [f"checkpoint-4 of another run lay there and was put into the trash: .trash/{kept.name}"]
