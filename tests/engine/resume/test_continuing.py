"""What may change when a run goes on, and what may not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.proof import read_manifest
from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.events import RunStarted, Step
from engine.folder import proposed_output, run_id_of
from engine.training import probe
from tests.conftest import build_tiny_model, chats, write_jsonl
from tests.engine.checkpoints.folders import undigested
from tests.engine.resume.test_receipt import change_json
from tests.engine.runs import adapter_bytes, losses, plan, receipt, train

FLAGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 4}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run stopped in the middle of its first epoch, at step 5 of 14. Copy it before continuing it."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(stop_at=5, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


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


CONTRADICTIONS = {"rank": {"lora_r": 8}, "alpha": {"lora_alpha": 16}, "targets": {"target_modules": "q_proj,v_proj"}}


@pytest.mark.parametrize("flags", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_settings_that_contradict_the_adapter_are_refused_before_anything_loads(flags: dict[str, Any], run: Path) -> None:
    with pytest.raises(CannotContinue):
        plan(output=run, **flags)


def test_another_base_model_of_equal_shape_is_refused(run: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(CannotContinue):
        plan(output=run, model=other)


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "other words"}]}, *rows[1:]]


CHANGES = {"appended": chats(27), "removed": chats(25), "reordered": chats(26)[::-1], "edited": edited(chats(26))}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_dataset_is_refused_by_name_and_can_be_accepted(how: str, run: Path, tmp_path: Path) -> None:
    changed = write_jsonl(tmp_path / "changed.jsonl", CHANGES[how])
    with pytest.raises(CannotContinue) as refused:
        train(output=run, dataset=changed)
    assert how.removesuffix("ed") in refused.value.detail.lower() or (how == "reordered" and "order" in refused.value.detail)
    before = losses(run)
    outcome, events = train(output=run, dataset=changed, accept="dataset")
    assert outcome.state == "finished"
    assert receipt(events)["dataset"] == "changed"
    assert losses(run)[:5] == before[:5]


def test_a_refused_start_changes_nothing_of_the_run(run: Path, tmp_path: Path) -> None:
    settings = (run / "run.toml").read_bytes()
    with pytest.raises(CannotContinue):
        train(output=run, dataset=write_jsonl(tmp_path / "changed.jsonl", chats(27)))
    assert (run / "run.toml").read_bytes() == settings
    assert plan(output=run).mode == "continue"


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


def test_a_run_that_went_on_over_accepted_rows_goes_on_from_there_and_not_from_before(run: Path, tmp_path: Path) -> None:
    """The epoch that was begun anew has a smaller number than the one it was begun from; it is further along all the same."""
    changed = write_jsonl(tmp_path / "changed.jsonl", chats(28))
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    train(output=whole, dataset=changed, accept="dataset", save_steps=1)
    train(output=run, dataset=changed, accept="dataset", save_steps=1, stop_at=7)
    again = plan(output=run, dataset=changed)
    assert again.checkpoint is not None and again.checkpoint.name == "checkpoint-7"
    assert "begun anew" in again.reason and not again.refused
    assert again.position is not None and again.position.rows_consumed == 8
    outcome, events = train(output=run, dataset=changed)
    assert outcome.state == "finished" and set(receipt(events).values()) == {"ok"}
    assert adapter_bytes(run) == adapter_bytes(whole)


def test_what_is_left_to_do_is_told_of_the_epoch_that_is_begun_anew(run: Path, tmp_path: Path) -> None:
    changed = write_jsonl(tmp_path / "changed.jsonl", chats(28))
    assert plan(output=run).epochs_left == pytest.approx(2 - 20 / 26)
    assert plan(output=run, dataset=changed, accept="dataset").epochs_left == 2


def test_an_accepted_template_goes_on_with_the_epoch_anew(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Other tokens have other lengths, and with them the rows stand in another order."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(
        template.read_text()
        .replace("assistant\n", "assistant said\n")
        .replace("{{ message['role'] }}", "{{ message['role'] }}, ")
    )
    with pytest.raises(CannotContinue, match="what was restored"):
        train(output=run, model=model)
    asked = plan(output=run, model=model, accept="chat_template")
    assert asked.position is not None and asked.position.rows_consumed == 0
    outcome, events = train(output=run, model=model, accept="chat_template")
    assert outcome.state == "finished"
    verdicts = receipt(events)
    assert (verdicts["chat_template"], verdicts["data_position"], verdicts["probe_loss"]) == (
        "changed",
        "changed",
        "unknown",
    )
    again = [one for one in scan(run).checkpoints if one.manifest is not None][-1]
    assert again.manifest is not None and again.manifest.probe is not None


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


def test_a_stronger_way_to_hold_rows_back_wins_over_the_runs_own(run: Path, tmp_path: Path) -> None:
    measured = write_jsonl(tmp_path / "measured.jsonl", chats(30)[27:])
    out = Path(shutil.copytree(run, tmp_path / "copy"))
    train(output=out, eval_dataset=measured, stop_at=6)
    assert plan(output=out).config.eval_dataset == str(measured)
    asked = plan(output=out, eval_fraction=0.2, accept="dataset").config
    assert (asked.eval_dataset, asked.eval_fraction) == (None, 0.2)


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


@pytest.mark.parametrize(
    "named", [{"train_on": "assistant"}, {"format": "messages"}, {"format": "messages", "train_on": "assistant"}]
)
def test_what_auto_had_found_may_be_named(named: dict[str, Any], run: Path) -> None:
    decided = plan(output=run, **named)
    assert not decided.refused and not [one for one in decided.differences if one.item == "dataset"]


def test_other_tokens_are_still_told(run: Path) -> None:
    assert plan(output=run, train_on="all").refused


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


@pytest.fixture
def dated(tmp_path: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose chat template writes the year, stopped; its tokens are gone and the year is another one."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls(2222, 2, 22)

    model = build_tiny_model(tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{{ '<|im_start|>system\nIt is ' + strftime_now('%Y') + '.<|im_end|>\n' }}" + template.read_text())
    # On a busy machine the probe would be cut to its last tokens, and the date stands before them.
    monkeypatch.setattr(probe.affordable, "__defaults__", (60.0,))
    _outcome, events = train(stop_at=5, dataset=chat_file, model=model, output=tmp_path / "run", **FLAGS)
    assert any(event.type == "warned" and "writes today's date" in event.message for event in events)  # type: ignore[attr-defined]
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cold"))
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    return tmp_path / "run"


def test_a_template_that_writes_the_date_does_not_keep_a_run_from_going_on_another_day(dated: Path) -> None:
    outcome, events = train(output=dated)
    assert (outcome.state, receipt(events)["probe_loss"]) == ("finished", "ok")


def test_where_its_tokens_were_not_kept_another_date_is_not_taken_for_another_model(dated: Path) -> None:
    for checkpoint in dated.glob("checkpoint-*"):
        manifest = undigested(checkpoint / "manifest.json")
        del manifest["probe"]["scored"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    outcome, events = train(output=dated)
    assert (outcome.state, receipt(events)["probe_loss"]) == ("finished", "unknown")
